/*
 * A virtio disk and a virtio network card, driven without an operating system: by polling, by MSI-X messages and by the
 * pin interrupt through the I/O APIC. Prints a line for each step on COM1; "FAILED" with the step's name ends it early.
 * Wants a disk of at least 16 sectors and a card whose network answers ARP for 10.77.0.1. Begins after entry.s.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { COM1 = 0x3f8, PM1_CONTROL = 0x604, POWER_OFF = 0x3400, PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc };
enum { LAPIC_EOI = 0xfee000b0, LAPIC_SPURIOUS = 0xfee000f0, IOAPIC = 0xfec00000 };
enum { VECTOR_MESSAGE = 0x50, VECTOR_PIN = 0x51 };
enum { VIRTIO = 0x1af4, NET = 0x1041, BLOCK = 0x1042 };
enum { NEXT = 1, WRITE = 2, NO_INTERRUPT = 1, SIZE = 8 };
enum { RECEIVE = 0, TRANSMIT = 1, HEADER = 12 };

static inline void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u32 inl(u16 port) { u32 value; asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static inline void barrier(void) { asm volatile("mfence" : : : "memory"); }

static volatile u8 *at8(u64 address) { return (volatile u8 *)address; }
static volatile u16 *at16(u64 address) { return (volatile u16 *)address; }
static volatile u32 *at32(u64 address) { return (volatile u32 *)address; }
static volatile u64 *at64(u64 address) { return (volatile u64 *)address; }

static void print(const char *text) { while (*text) outb(COM1, *text++); }

static void power_off(void) {
    outw(PM1_CONTROL, POWER_OFF);
    for (;;) asm volatile("cli; hlt");
}

static void require(int condition, const char *step) {
    if (condition) return;
    print("FAILED ");
    print(step);
    print("\n");
    power_off();
}

static void passed(const char *step) { print(step); print("\n"); }

/* Interrupts. */

static volatile u32 messages, pins;
static volatile u8 *pin_status;
struct frame;

__attribute__((interrupt)) static void on_message(struct frame *frame) {
    (void)frame;
    messages++;
    *at32(LAPIC_EOI) = 0;
}

__attribute__((interrupt)) static void on_pin(struct frame *frame) {
    (void)frame;
    pins += *pin_status & 1; /* reading it takes the request back */
    *at32(LAPIC_EOI) = 0;
}

__attribute__((interrupt)) static void on_spurious(struct frame *frame) { (void)frame; }

static u64 gates[512] __attribute__((aligned(16)));
static struct { u16 limit; u64 base; } __attribute__((packed)) gates_pointer;

static void gate(u32 vector, void (*handler)(struct frame *)) {
    u64 address = (u64)handler;
    gates[2 * vector] = (address & 0xffff) | 0x08UL << 16 | 0x8e00UL << 32 | (address >> 16 & 0xffff) << 48;
    gates[2 * vector + 1] = address >> 32;
}

static void wait_until(volatile u32 *counter, u32 wanted) {
    for (;;) {
        asm volatile("cli");
        if (*counter >= wanted) return;
        asm volatile("sti; hlt");
    }
}

/* PCI. */

static u32 config(u32 slot, u32 offset) {
    outl(PCI_ADDRESS, 0x80000000 | slot << 11 | (offset & 0xfc));
    return inl(PCI_DATA) >> (offset & 3) * 8;
}

static void set_config(u32 slot, u32 offset, u32 value) {
    outl(PCI_ADDRESS, 0x80000000 | slot << 11 | offset);
    outl(PCI_DATA, value);
}

static u32 find(u32 device) {
    for (u32 slot = 0; slot < 32; slot++)
        if (config(slot, 0) == (device << 16 | VIRTIO)) return slot;
    return 32;
}

struct device {
    u32 slot, msix, multiplier;
    u64 common, notify, status, registers, table;
};

static u64 window(u32 slot, u32 bar) {
    u32 low = config(slot, 0x10 + 4 * bar);
    u64 high = (low & 6) == 4 ? config(slot, 0x14 + 4 * bar) : 0;
    return high << 32 | (low & ~15u);
}

static struct device probe(u32 slot) {
    struct device found = { .slot = slot };
    set_config(slot, 4, (config(slot, 4) & 0xffff) | 6); /* memory and bus master */
    for (u32 at = config(slot, 0x34) & 0xff; at; at = config(slot, at + 1) & 0xff) {
        u32 id = config(slot, at) & 0xff;
        if (id == 0x11) {
            u32 place = config(slot, at + 4);
            found.msix = at;
            found.table = window(slot, place & 7) + (place & ~7u);
        } else if (id == 9) {
            u32 kind = config(slot, at + 3) & 0xff, bar = config(slot, at + 4) & 0xff;
            u64 place = window(slot, bar) + config(slot, at + 8);
            if (kind == 1) found.common = place;
            if (kind == 2) found.notify = place, found.multiplier = config(slot, at + 16);
            if (kind == 3) found.status = place;
            if (kind == 4) found.registers = place;
        }
    }
    return found;
}

/* Queues. */

struct descriptor { u64 address; u32 len; u16 flags, next; };

static struct queue {
    struct descriptor table[SIZE];
    struct { u16 flags, index, ring[SIZE + 1]; } available __attribute__((aligned(16)));
    struct { u16 flags, index; struct { u32 head, len; } ring[SIZE]; u16 event; } used __attribute__((aligned(16)));
} queues[2] __attribute__((aligned(4096)));

enum mode { POLL, MESSAGE, PIN };

static void set_up_queue(struct device *device, u32 index, enum mode mode) {
    struct queue *queue = &queues[index];
    for (u64 at = 0; at < sizeof *queue; at++) ((volatile u8 *)queue)[at] = 0;
    queue->available.flags = mode == POLL ? NO_INTERRUPT : 0;
    *at16(device->common + 0x16) = index;
    *at16(device->common + 0x18) = SIZE;
    *at16(device->common + 0x1a) = mode == MESSAGE ? 0 : 0xffff;
    *at64(device->common + 0x20) = (u64)queue->table;
    *at64(device->common + 0x28) = (u64)&queue->available;
    *at64(device->common + 0x30) = (u64)&queue->used;
    *at16(device->common + 0x1c) = 1;
}

static void start(struct device *device, u32 count, enum mode mode) {
    volatile u8 *status = at8(device->common + 0x14);
    *status = 0;
    while (*status) ;
    u32 control = (config(device->slot, device->msix) & 0x3fffffff) | (mode == MESSAGE ? 0x80000000 : 0);
    set_config(device->slot, device->msix, control);
    *status = 1;
    *status = 3;
    *at32(device->common + 8) = 0;
    *at32(device->common + 12) = 0;
    *at32(device->common + 8) = 1;
    *at32(device->common + 12) = 1; /* VIRTIO_F_VERSION_1 */
    *status = 11;
    require(*status == 11, "features");
    for (u32 index = 0; index < count; index++) set_up_queue(device, index, mode);
    if (mode == MESSAGE) {
        *at32(device->table) = 0xfee00000;
        *at32(device->table + 4) = 0;
        *at32(device->table + 8) = VECTOR_MESSAGE;
        *at32(device->table + 12) = 0;
    }
    *status = 15;
}

/* Offers the chain that begins with a descriptor. */
static void offer(struct device *device, u32 index, u16 head) {
    struct queue *queue = &queues[index];
    queue->available.ring[queue->available.index % SIZE] = head;
    barrier();
    queue->available.index++;
    barrier();
    *at16(device->common + 0x16) = index;
    *at16(device->notify + *at16(device->common + 0x1e) * device->multiplier) = index;
}

static void await(u32 index, u16 count, enum mode mode, u32 interrupts) {
    volatile u16 *used = &queues[index].used.index;
    if (mode == MESSAGE) wait_until(&messages, interrupts);
    if (mode == PIN) wait_until(&pins, interrupts);
    while (*used != count) asm volatile("pause");
    barrier();
}

/* The disk. */

static u8 data[4096] __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } request;
static volatile u8 answer;

/* Starts one request; the device must be set up with nothing outstanding. */
static void block(struct device *disk, u32 type, u64 sector, u32 len) {
    request.type = type;
    request.sector = sector;
    answer = 0xff;
    queues[0].table[0] = (struct descriptor){ (u64)&request, 16, NEXT, 1 };
    queues[0].table[1] = (struct descriptor){ (u64)data, len, NEXT | (type == 1 ? 0 : WRITE), 2 };
    queues[0].table[2] = (struct descriptor){ (u64)&answer, 1, WRITE, 0 };
    offer(disk, 0, 0);
}

static void fill(u32 seed) { for (u32 at = 0; at < sizeof data; at++) data[at] = seed + at * 7; }

static int filled(u32 seed) {
    for (u32 at = 0; at < sizeof data; at++) if (data[at] != (u8)(seed + at * 7)) return 0;
    return 1;
}

static void try_disk(struct device *disk, enum mode mode, const char *name) {
    volatile u32 *counter = mode == MESSAGE ? &messages : &pins;
    u32 before = *counter;
    start(disk, 1, mode);
    fill(mode + 1);
    block(disk, 1, 8, sizeof data);
    await(0, 1, mode, before + 1);
    require(answer == 0, "the disk's answer to a write");
    fill(99);
    block(disk, 0, 8, sizeof data);
    await(0, 2, mode, before + 2);
    require(answer == 0 && filled(mode + 1), "what was written is read back");
    block(disk, 0, 1UL << 40, sizeof data);
    await(0, 3, mode, before + 3);
    require(answer == 1, "a read beyond the end fails");
    require(*counter == before + (mode == POLL ? 0 : 3), "one interrupt for each request");
    passed(name);
}

/* The card. */

static u8 sent[HEADER + 60], received[SIZE][2048];

static void put(u8 *to, const u8 *from, u32 len) { while (len--) *to++ = *from++; }

/* Who has 10.77.0.1? Tell 10.77.0.9. */
static void ask(struct device *card) {
    static const u8 everyone[6] = { 255, 255, 255, 255, 255, 255 };
    static const u8 kind[10] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
    static const u8 us[4] = { 10, 77, 0, 9 }, them[4] = { 10, 77, 0, 1 };
    u8 mac[6];
    for (u32 at = 0; at < 6; at++) mac[at] = *at8(card->registers + at);
    u8 *frame = sent + HEADER;
    put(frame, everyone, 6);
    put(frame + 6, mac, 6);
    put(frame + 12, kind, 10);
    put(frame + 22, mac, 6);
    put(frame + 28, us, 4);
    put(frame + 38, them, 4);
    queues[TRANSMIT].table[0] = (struct descriptor){ (u64)sent, sizeof sent, 0, 0 };
    offer(card, TRANSMIT, 0);
}

static int is_answer(const u8 *buffer) {
    const u8 *frame = buffer + HEADER;
    return frame[12] == 8 && frame[13] == 6 && frame[21] == 2 && frame[28] == 10 && frame[31] == 1;
}

/* Waits for another frame than those seen; frames may share an interrupt. A question is lost if the network has only just
 * come up: the first way asks again, and the others come after it. */
static void await_frame(struct device *card, u16 seen, enum mode mode) {
    volatile u16 *used = &queues[RECEIVE].used.index;
    for (u32 round = 1; *used == seen; round++) {
        if (mode == POLL) {
            if (round % 500000 == 0) ask(card);
            continue;
        }
        asm volatile("cli");
        if (*used == seen) asm volatile("sti; hlt");
        else asm volatile("sti");
    }
    asm volatile("cli");
    barrier();
}

static void try_card(struct device *card, enum mode mode, const char *name) {
    volatile u32 *counter = mode == MESSAGE ? &messages : &pins;
    u32 before = *counter;
    start(card, 2, mode);
    queues[TRANSMIT].available.flags = NO_INTERRUPT;
    /* The network may talk of its own accord before it answers. */
    for (u16 index = 0; index < SIZE; index++) {
        queues[RECEIVE].table[index] = (struct descriptor){ (u64)received[index], sizeof received[index], WRITE, 0 };
        offer(card, RECEIVE, index);
    }
    ask(card);
    for (u16 seen = 0; seen < SIZE; seen++) {
        await_frame(card, seen, mode);
        if (is_answer(received[queues[RECEIVE].used.ring[seen].head % SIZE])) {
            /* The frame may be there before its interrupt, but that has to come. */
            if (mode == POLL) require(*counter == before, "no interrupt where none is asked for");
            else wait_until(counter, before + 1);
            for (u32 index = 0; index < SIZE; index++) received[index][HEADER + 12] = 0;
            passed(name);
            return;
        }
    }
    require(0, name);
}

/* Leads an I/O APIC input to a vector, level-triggered. */
static void route(u32 input, u32 vector) {
    *at32(IOAPIC) = 0x11 + 2 * input;
    *at32(IOAPIC + 0x10) = 0;
    *at32(IOAPIC) = 0x10 + 2 * input;
    *at32(IOAPIC + 0x10) = 1 << 15 | vector;
}

static void unroute(u32 input) {
    *at32(IOAPIC) = 0x10 + 2 * input;
    *at32(IOAPIC + 0x10) = 1 << 16;
}

void main(void) {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    gate(VECTOR_MESSAGE, on_message);
    gate(VECTOR_PIN, on_pin);
    gate(0xff, on_spurious);
    gates_pointer.limit = sizeof gates - 1;
    gates_pointer.base = (u64)gates;
    asm volatile("lidt %0" : : "m"(gates_pointer));
    *at32(LAPIC_SPURIOUS) = 0x1ff;

    u32 slot = find(BLOCK);
    require(slot < 32, "a virtio disk on the PCI bus");
    struct device disk = probe(slot);
    try_disk(&disk, POLL, "disk, polled");
    try_disk(&disk, MESSAGE, "disk, by message");
    pin_status = at8(disk.status);
    u32 input = config(slot, 0x3c) & 0xff;
    route(input, VECTOR_PIN);
    try_disk(&disk, PIN, "disk, by pin");
    unroute(input);

    slot = find(NET);
    if (slot < 32) {
        struct device card = probe(slot);
        try_card(&card, POLL, "card, polled");
        try_card(&card, MESSAGE, "card, by message");
        pin_status = at8(card.status);
        input = config(slot, 0x3c) & 0xff;
        route(input, VECTOR_PIN);
        try_card(&card, PIN, "card, by pin");
    }
    passed("all done");
    power_off();
}
