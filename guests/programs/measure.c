/* Small programs whose speed says something about a CPU, each timed with the machine's own clock: integer work, hashing,
 * double-precision arithmetic, memory copying, system calls, processes. Runs in a guest and natively alike:
 *     measure [NAME…]
 * prints a line "MEASURE NAME NANOSECONDS CHECK" each, where CHECK must be the same everywhere. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Primes below two million. */
static uint64_t sieve(void)
{
    enum { LIMIT = 2000000 };
    static uint8_t composite[LIMIT];
    uint64_t count = 0;
    memset(composite, 0, sizeof composite);
    for (uint32_t i = 2; i < LIMIT; i++) {
        if (composite[i])
            continue;
        count++;
        for (uint64_t j = (uint64_t)i * i; j < LIMIT; j += i)
            composite[j] = 1;
    }
    return count;
}

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* SHA-256's compression function (FIPS 180-4) over a million bytes of a counter. The constants are the fractional parts
 * of cube roots of primes, computed here. */
static uint64_t sha256(void)
{
    uint32_t k[64], h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    int found = 0;
    for (uint32_t n = 2; found < 64; n++) {
        int prime = 1;
        for (uint32_t d = 2; d * d <= n; d++)
            if (n % d == 0)
                prime = 0;
        if (!prime)
            continue;
        /* The integer cube root of n << 96, by bits, in 128-bit steps; its low 32 bits are the fraction. */
        unsigned __int128 root = 0;
        for (int bit = 34; bit >= 0; bit--) {
            unsigned __int128 candidate = root | (unsigned __int128)1 << bit;
            if (candidate * candidate * candidate <= (unsigned __int128)n << 96)
                root = candidate;
        }
        k[found++] = (uint32_t)root;
    }
    for (uint32_t block = 0; block < 15625; block++) {
        uint32_t w[64], s[8];
        for (uint32_t i = 0; i < 16; i++)
            w[i] = block * 16 + i;
        for (int i = 16; i < 64; i++) {
            uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + a + w[i - 7] + b;
        }
        memcpy(s, h, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
            uint32_t one = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
            uint32_t a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
            uint32_t two = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += one;
            s[0] = one + two;
        }
        for (int i = 0; i < 8; i++)
            h[i] += s[i];
    }
    return (uint64_t)h[0] << 32 | h[7];
}

/* The product of two matrices of doubles. */
static uint64_t matmul(void)
{
    enum { N = 160 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(i * j % 7) + 0.25;
            b[i][j] = (double)((i + j) % 5) - 0.5;
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    double trace = 0;
    for (int i = 0; i < N; i++)
        trace += c[i][i];
    return (uint64_t)(trace * 1024);
}

/* Points of the Mandelbrot set on a coarse grid. */
static uint64_t mandelbrot(void)
{
    uint64_t inside = 0;
    for (int y = 0; y < 120; y++)
        for (int x = 0; x < 160; x++) {
            double cr = x / 60.0 - 2, ci = y / 60.0 - 1, zr = 0, zi = 0;
            int i = 0;
            for (; i < 100 && zr * zr + zi * zi < 4; i++) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
            }
            inside += i == 100;
        }
    return inside;
}

/* A hundred copies of four megabytes. */
static uint64_t copy(void)
{
    static uint8_t from[4 << 20], to[4 << 20];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(i * 31);
    for (int i = 0; i < 100; i++) {
        from[i] ^= 1;
        memcpy(to, from, sizeof to);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    return to[12345];
}

/* Fifty thousand of the cheapest system call. */
static uint64_t calls(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 50000; i++)
        sum += (uint64_t)(syscall(SYS_getppid) >= 0);
    return sum;
}

/* A hundred children that end at once. */
static uint64_t forks(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 100; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(3);
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint64_t (*run)(void);
    } programs[] = {
        {"sieve", sieve}, {"sha256", sha256}, {"matmul", matmul}, {"mandelbrot", mandelbrot},
        {"copy", copy},   {"calls", calls},   {"forks", forks},
    };
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        int wanted = argc < 2;
        for (int j = 1; j < argc; j++)
            wanted |= !strcmp(argv[j], programs[i].name);
        if (!wanted)
            continue;
        programs[i].run();
        uint64_t begin = now();
        uint64_t check = programs[i].run();
        printf("MEASURE %s %llu %llu\n", programs[i].name, (unsigned long long)(now() - begin), (unsigned long long)check);
        fflush(stdout);
    }
    return 0;
}
