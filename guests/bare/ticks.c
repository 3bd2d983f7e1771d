/*
 * Counts the interrupts of the local APIC's timer while it computes, and prints a line "tick N" for every twentieth, or
 * "FAILED" with a reason when the computation, kept twice, differs, the time stamp counter goes back or an interrupt comes
 * in between. Ends when it reads a "q" on COM1. Made to be stopped, saved and gone on with anywhere. Begins after entry.s.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { COM1 = 0x3f8, COM1_STATUS = 0x3fd, PM1_CONTROL = 0x604, POWER_OFF = 0x3400 };
enum { LAPIC_EOI = 0xfee000b0, LAPIC_SPURIOUS = 0xfee000f0, LAPIC_TIMER = 0xfee00320, LAPIC_COUNT = 0xfee00380,
       LAPIC_DIVIDE = 0xfee003e0 };
enum { VECTOR = 0x50, PERIODIC = 1 << 17, BY_ONE = 0xb, INTERVAL = 5000000 };

static inline void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 value; asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static volatile u32 *at32(u64 address) { return (volatile u32 *)address; }

static inline u64 timestamp(void) {
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void print(const char *text) { while (*text) outb(COM1, *text++); }

static void print_number(u64 number) {
    char text[21], *at = text + 20;
    *at = 0;
    do *--at = '0' + number % 10; while (number /= 10);
    print(at);
}

static void power_off(void) {
    outw(PM1_CONTROL, POWER_OFF);
    for (;;) asm volatile("cli; hlt");
}

static void require(int condition, const char *what) {
    if (condition) return;
    print("FAILED ");
    print(what);
    print("\n");
    power_off();
}

static volatile u64 ticks;
struct frame;

__attribute__((interrupt)) static void on_tick(struct frame *frame) {
    (void)frame;
    ticks++;
    *at32(LAPIC_EOI) = 0;
}

static u64 gates[512] __attribute__((aligned(16)));
static struct __attribute__((packed)) { u16 limit; u64 base; } gates_pointer = { sizeof gates - 1, (u64)gates };

static u64 step(u64 value) { return value * 6364136223846793005UL + 1442695040888963407UL; }

static volatile u64 memory_copy;

void main(void) {
    u64 handler = (u64)on_tick;
    gates[2 * VECTOR] = (handler & 0xffff) | 8UL << 16 | 0x8eUL << 40 | (handler >> 16 & 0xffff) << 48;
    gates[2 * VECTOR + 1] = handler >> 32;
    asm volatile("lidt %0" : : "m"(gates_pointer));
    *at32(LAPIC_SPURIOUS) = 0x1ff;
    *at32(LAPIC_DIVIDE) = BY_ONE;
    *at32(LAPIC_TIMER) = PERIODIC | VECTOR;
    *at32(LAPIC_COUNT) = INTERVAL;
    asm volatile("sti");
    u64 value = 1, next = 20, last = timestamp();
    memory_copy = 1;
    for (;;) {
        for (int round = 0; round < 200; round++) {
            value = step(value);
            memory_copy = step(memory_copy);
        }
        require(value == memory_copy, "computation");
        u64 now = timestamp();
        require(now > last, "time stamp counter");
        last = now;
        if (ticks >= next) {
            print("tick ");
            print_number(next);
            print("\n");
            next += 20;
        }
        if (inb(COM1_STATUS) & 1 && inb(COM1) == 'q') break;
    }
    print("all done\n");
    power_off();
}
