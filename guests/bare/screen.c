/*
 * Something to look at: draws pages of text and a picture like a photograph on the VGA's linear framebuffer, as keys ask for
 * them, so that a screen can be the same on several machines. Says one character on COM1 whenever it is done, and halts until
 * the next key. Keys: 1 and 2 set 1024x768 and 1920x1080, t draws text, p the picture, c types a character, s scrolls by a line.
 * Begins after entry.s.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { COM1 = 0x3f8, PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, KEYBOARD = 0x60, KEYBOARD_STATUS = 0x64 };
enum { LAPIC_EOI = 0xfee000b0, LAPIC_SPURIOUS = 0xfee000f0, IOAPIC = 0xfec00000, VECTOR_KEY = 0x50 };
/* Bochs VBE's registers. */
enum { VBE_INDEX = 0x1ce, VBE_DATA = 0x1cf, VBE_WIDTH = 1, VBE_HEIGHT, VBE_BITS, VBE_ENABLE, VBE_ON = 0x41 };
enum { LETTER = 8, LINE = 16 };

static inline void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 value; asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static inline u32 inl(u16 port) { u32 value; asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port)); return value; }

static u32 *pixels;
static u32 width, height;
static u32 seed;

static u32 below(u32 limit) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % limit;
}

/* Keys. */

static volatile u8 keys[256];
static volatile u8 written;
static u8 taken;
struct frame;

__attribute__((interrupt)) static void on_key(struct frame *frame) {
    (void)frame;
    while (inb(KEYBOARD_STATUS) & 1) {
        u8 code = inb(KEYBOARD);
        if (code < 0x80) keys[written++] = code;
    }
    *(volatile u32 *)LAPIC_EOI = 0;
}

__attribute__((interrupt)) static void on_spurious(struct frame *frame) { (void)frame; }

static u64 gates[512] __attribute__((aligned(16)));
static struct { u16 limit; u64 base; } __attribute__((packed)) gates_pointer;

static void gate(u32 vector, void (*handler)(struct frame *)) {
    u64 address = (u64)handler;
    gates[2 * vector] = (address & 0xffff) | 0x08UL << 16 | 0x8e00UL << 32 | (address >> 16 & 0xffff) << 48;
    gates[2 * vector + 1] = address >> 32;
}

static void listen(void) {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    gate(VECTOR_KEY, on_key);
    gate(0xff, on_spurious);
    gates_pointer.limit = sizeof gates - 1;
    gates_pointer.base = (u64)gates;
    asm volatile("lidt %0" : : "m"(gates_pointer));
    *(volatile u32 *)LAPIC_SPURIOUS = 0x1ff;
    /* The keyboard is input 1 of the I/O APIC; to CPU 0, by its edge. */
    *(volatile u32 *)IOAPIC = 0x10 + 2;
    *(volatile u32 *)(IOAPIC + 0x10) = VECTOR_KEY;
    *(volatile u32 *)IOAPIC = 0x10 + 3;
    *(volatile u32 *)(IOAPIC + 0x10) = 0;
    /* The keyboard's interrupt on, its clock on, codes of set 1. */
    outb(KEYBOARD_STATUS, 0x60);
    outb(KEYBOARD, 0x61);
    while (inb(KEYBOARD_STATUS) & 1) inb(KEYBOARD);
}

static u8 next_key(void) {
    for (;;) {
        asm volatile("cli");
        if (taken != written) break;
        asm volatile("sti; hlt");
    }
    asm volatile("sti");
    return keys[taken++];
}

/* The screen. */

static void vbe(u16 index, u16 value) {
    outw(VBE_INDEX, index);
    outw(VBE_DATA, value);
}

static void set_mode(u32 columns, u32 rows) {
    width = columns;
    height = rows;
    vbe(VBE_ENABLE, 0);
    vbe(VBE_WIDTH, columns);
    vbe(VBE_HEIGHT, rows);
    vbe(VBE_BITS, 32);
    vbe(VBE_ENABLE, VBE_ON);
    /* Without a BIOS the VGA is still blank: its palette belongs to the screen now. */
    outb(0x3c2, 0x67);
    inb(0x3da);
    outb(0x3c0, 0x20);
}

static u32 *find_framebuffer(void) {
    for (u32 slot = 0; slot < 32; slot++) {
        outl(PCI_ADDRESS, 0x80000000 | slot << 11);
        if (inl(PCI_DATA) != 0x11111234) continue;
        outl(PCI_ADDRESS, 0x80000000 | slot << 11 | 0x04);
        outl(PCI_DATA, inl(PCI_DATA) | 3); /* it answers at ports and in memory */
        outl(PCI_ADDRESS, 0x80000000 | slot << 11 | 0x10);
        return (u32 *)(u64)(inl(PCI_DATA) & ~15u);
    }
    return 0;
}

/* A letter of strokes: stems, bars and a slope, which of them its number says. */
static void letter(u32 column, u32 row, u32 number, u32 colour) {
    u32 strokes = number * 2654435761u >> 20 | 0x12;
    for (u32 y = 0; y < LINE; y++) {
        u32 bits = 0;
        if (y >= 3 && y <= 12) {
            if (strokes & 1 << (y < 8 ? 0 : 1)) bits |= 0x06;
            if (strokes & 1 << (y < 8 ? 2 : 3)) bits |= 0x60;
            if ((y == 3 && strokes & 16) || (y == 8 && strokes & 32) || (y == 12 && strokes & 64)) bits |= 0x7e;
            if (strokes & 128) bits |= 0x40 >> (y - 3) / 2;
        }
        u32 *to = pixels + (row * LINE + y) * width + column * LETTER;
        for (u32 x = 0; x < LETTER; x++) to[x] = number && bits >> x & 1 ? colour : 0;
    }
}

static u32 typed;

static void text_line(u32 row) {
    u32 columns = width / LETTER, column = 0, end = below(8) == 0 ? 0 : 20 + below(columns - 20);
    u32 colour = below(6) == 0 ? 0x55ff55 : 0xaaaaaa;
    while (column < end) {
        for (u32 len = 2 + below(8); len && column < end; len--) letter(column++, row, 1 + below(60), colour);
        if (column < end) letter(column++, row, 0, 0);
    }
    while (column < columns) letter(column++, row, 0, 0);
}

static void text(void) {
    for (u32 at = 0; at < width * height; at++) pixels[at] = 0;
    seed = 1;
    typed = 0;
    for (u32 row = 0; row < height / LINE; row++) text_line(row);
}

static void scroll(void) {
    u32 last = height / LINE - 1;
    u64 words = (u64)last * LINE * width / 2;
    u64 *to = (u64 *)pixels, *from = (u64 *)(pixels + LINE * width);
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    text_line(last);
}

static void type(void) {
    letter(typed++ % (width / LETTER), height / LINE / 2, 1 + below(60), 0xffffff);
}

static u32 wave(u32 at, u32 period) {
    u32 place = at % period;
    return (place < period / 2 ? place : period - place) * 510 / period;
}

static void picture(void) {
    seed = 2;
    for (u32 y = 0; y < height; y++)
        for (u32 x = 0; x < width; x++) {
            u32 hill = wave(x * 3 + wave(y, 700) * 2, 900), sky = y * 255 / height, grain = below(6);
            u32 red = (hill + sky) / 2 + grain, green = (wave(x + y, 400) + sky) / 2, blue = wave(y * 2 + x / 3, 1100);
            pixels[y * width + x] = (red > 255 ? 255 : red) << 16 | green << 8 | blue;
        }
}

void main(void) {
    pixels = find_framebuffer();
    listen();
    for (;;) {
        outb(COM1, '.');
        switch (next_key()) {
        case 0x02: set_mode(1024, 768); text(); break;
        case 0x03: set_mode(1920, 1080); text(); break;
        case 0x14: text(); break;
        case 0x19: picture(); break;
        case 0x1f: scroll(); break;
        case 0x2e: type(); break;
        }
    }
}
