/* How fast a block device is, past the page cache: sequential in 1 MiB, random in 4 KiB by one process and by eight.
 *     measure-disk DEVICE
 * writes over the device and prints a line "MEASURE NAME NANOSECONDS OPERATIONS" each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, SMALL = 4096 };

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void check(int done, const char *what)
{
    if (done)
        return;
    perror(what);
    exit(1);
}

static int file;
static uint8_t *buffer;
static uint64_t size;

static void transfer(int writes, uint64_t offset, size_t len)
{
    ssize_t done = writes ? pwrite(file, buffer, len, (off_t)offset) : pread(file, buffer, len, (off_t)offset);
    check(done == (ssize_t)len, writes ? "write" : "read");
}

static void report(const char *name, uint64_t begin, unsigned operations)
{
    printf("MEASURE %s %llu %u\n", name, (unsigned long long)(now() - begin), operations);
    fflush(stdout);
}

static void sequential(const char *name, int writes)
{
    uint64_t begin = now();
    for (uint64_t offset = 0; offset + BLOCK <= size; offset += BLOCK)
        transfer(writes, offset, BLOCK);
    if (writes)
        check(fsync(file) == 0, "fsync");
    report(name, begin, (unsigned)(size / BLOCK));
}

static void scattered(const char *name, int writes, int processes, unsigned each)
{
    uint64_t begin = now();
    for (int process = 0; process < processes; process++) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child > 0)
            continue;
        uint64_t state = 88172645463325252u + (uint64_t)process;
        for (unsigned i = 0; i < each; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            transfer(writes, state % (size / SMALL) * SMALL, SMALL);
        }
        _exit(0);
    }
    for (int process = 0; process < processes; process++) {
        int status = 0;
        check(wait(&status) > 0 && status == 0, "a child");
    }
    if (writes)
        check(fsync(file) == 0, "fsync");
    report(name, begin, each * (unsigned)processes);
}

int main(int argc, char **argv)
{
    check(argc == 2, "usage: measure-disk DEVICE");
    file = open(argv[1], O_RDWR | O_DIRECT);
    check(file >= 0, argv[1]);
    check(ioctl(file, BLKGETSIZE64, &size) == 0, "size");
    buffer = aligned_alloc(SMALL, BLOCK);
    check(buffer != NULL, "memory");
    memset(buffer, 0x5a, BLOCK);
    sequential("write-1M", 1);
    sequential("read-1M", 0);
    scattered("write-4k", 1, 1, 4000);
    scattered("read-4k", 0, 1, 4000);
    scattered("write-4k-x8", 1, 8, 1000);
    scattered("read-4k-x8", 0, 8, 1000);
    return 0;
}
