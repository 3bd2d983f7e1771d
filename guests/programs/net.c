/* What a guest gets through its network card, timed with its own clock:
 *     measure-net fetch ADDRESS PORT BYTES      by HTTP, all of /data
 *     measure-net packets ADDRESS PORT COUNT    UDP datagrams of 64 bytes, as fast as they go
 *     measure-net ping ADDRESS PORT COUNT       TCP connections, one after the other
 * prints a line "MEASURE NAME NANOSECONDS CHECK". */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int reach(const struct sockaddr_in *to, int type)
{
    int s = socket(AF_INET, type, 0);
    if (s < 0 || connect(s, (const struct sockaddr *)to, sizeof *to) < 0) {
        perror("measure-net");
        exit(1);
    }
    return s;
}

static uint64_t fetch(const struct sockaddr_in *to, uint64_t bytes)
{
    static char buffer[65536];
    static const char ask[] = "GET /data HTTP/1.0\r\n\r\n";
    int s = reach(to, SOCK_STREAM);
    uint64_t got = 0;
    ssize_t len;
    if (write(s, ask, sizeof ask - 1) < 0)
        exit(1);
    while ((len = read(s, buffer, sizeof buffer)) > 0)
        got += (uint64_t)len;
    close(s);
    return got >= bytes;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    inet_pton(AF_INET, argv[2], &to.sin_addr);
    uint64_t count = strtoull(argv[4], NULL, 10), check = 0, start = now();
    if (!strcmp(argv[1], "fetch")) {
        check = fetch(&to, count);
    } else if (!strcmp(argv[1], "packets")) {
        char packet[64] = {0};
        int s = reach(&to, SOCK_DGRAM);
        /* Nobody listens: what ICMP says of that comes back as an error of the next one, which counts as sent too. */
        for (check = 0; check < count; check++)
            (void)!send(s, packet, sizeof packet, 0);
    } else {
        for (check = 0; check < count; check++)
            close(reach(&to, SOCK_STREAM));
    }
    printf("MEASURE %s %llu %llu\n", argv[1], (unsigned long long)(now() - start), (unsigned long long)check);
    return 0;
}
