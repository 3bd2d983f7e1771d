# What a PC's CPU and interrupt controllers do, tried by a guest without an operating system: long mode, faults with their
# error codes, the local APIC's timer, the PIT through the I/O APIC, an IPI, a second CPU by INIT and SIPI, power-off.
# Prints a line for each on COM1; "FAILED" with the step's name ends it early. Wants two vCPUs. Begins after entry.s.

.set COM1, 0x3f8
.set PM1_CONTROL, 0x604
.set POWER_OFF, 0x3400              # SLP_TYP 5 in bits 10-12, SLP_EN bit 13
.set LAPIC, 0xfee00000
.set LAPIC_ID, LAPIC + 0x20
.set LAPIC_EOI, LAPIC + 0xb0
.set LAPIC_SPURIOUS, LAPIC + 0xf0
.set LAPIC_ICR, LAPIC + 0x300
.set LAPIC_ICR_HIGH, LAPIC + 0x310
.set LAPIC_TIMER, LAPIC + 0x320
.set LAPIC_TIMER_COUNT, LAPIC + 0x380
.set LAPIC_TIMER_DIVIDE, LAPIC + 0x3e0
.set IOAPIC, 0xfec00000
.set VECTOR_TIMER, 0x40
.set VECTOR_PIT, 0x41
.set VECTOR_IPI, 0x42
.set VECTOR_CROSS, 0x43
.set TRAMPOLINE, 0x8000             # where the second CPU begins, in its first megabyte
.set UNMAPPED, 0x8000000000         # the second entry of the top table isn't there
.set READ_ONLY, 0x40000000          # mapped to address 0, not writable
.set CODE64, 0x08                   # entry.s's segments
.set DATA, 0x10
.set CODE32, 0x18

.text
.code64
# Prints the text at RSI.
print:
    movl $COM1, %edx
1:  movb (%rsi), %al
    testb %al, %al
    jz 2f
    outb %al, %dx
    incq %rsi
    jmp 1b
2:  ret

.macro passed name
    movq $9f, %rsi
    call print
    .data
9:  .asciz "\name\n"
    .text
.endm

# Goes on if the condition holds, else says which step failed and ends.
.macro require condition, name
    j\condition 8f
    movq $9f, %rsi
    jmp fail
    .data
9:  .asciz "FAILED \name\n"
    .text
8:
.endm

fail:
    call print
power_off:
    movl $PM1_CONTROL, %edx
    movl $POWER_OFF, %eax
    outw %ax, %dx
1:  cli
    hlt
    jmp 1b

# Writes a gate for vector EDI that leads to RSI.
set_gate:
    shll $4, %edi
    addq $idt, %rdi
    movq %rsi, %rax
    movw %ax, (%rdi)
    movw $CODE64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shrq $16, %rax
    movw %ax, 6(%rdi)
    movq $0, 8(%rdi)
    ret

.macro gate vector, handler
    movl $\vector, %edi
    movq $\handler, %rsi
    call set_gate
.endm

# Expects the next instructions to fault with this vector and error code, and goes on after them.
.macro faults vector, error, name, code:vararg
    movq $-1, fault_vector
    movq $7f, fault_resume
    \code
7:  cmpq $\vector, fault_vector
    require e, "\name: vector"
    cmpq $\error, fault_error
    require e, "\name: error code"
    passed "\name"
.endm

# Waits, halting, until the counter has reached a number.
.macro await counter, number
6:  cli
    cmpq $\number, \counter
    jae 5f
    sti                             # takes effect after the next instruction
    hlt
    jmp 6b
5:
.endm

.globl main
main:
    movl $0x81, directories + 0x1000 # READ_ONLY, not looked at before
    passed "long mode"
    movb $0xff, %al                 # the old interrupt controllers are quiet
    outb %al, $0x21
    outb %al, $0xa1
    gate 6, fault_ud
    gate 13, fault_gp
    gate 14, fault_pf
    gate VECTOR_TIMER, on_timer
    gate VECTOR_PIT, on_pit
    gate VECTOR_IPI, on_ipi
    gate VECTOR_CROSS, on_cross
    gate 0xff, on_spurious
    lidt idt_pointer
    movl $LAPIC_SPURIOUS, %ebx
    movl $0x1ff, (%rbx)

    faults 6, 0, "undefined instruction", ud2
    movabsq $UNMAPPED, %rbx
    faults 14, 0, "read of an unmapped page", movq (%rbx), %rax
    cmpq %rbx, fault_address
    require e, "CR2 of a read"
    faults 14, 2, "write to an unmapped page", movq %rax, 8(%rbx)
    addq $8, %rbx
    cmpq %rbx, fault_address
    require e, "CR2 of a write"
    movl $READ_ONLY, %ebx
    faults 14, 3, "write to a read-only page", movq %rax, (%rbx)
    movl $0x50, %ecx
    faults 13, 0x50, "selector beyond the table", movw %cx, %fs
    movabsq $0x800000000000, %rbx
    faults 13, 0, "address that is not canonical", movq (%rbx), %rax

    movl $LAPIC_TIMER_DIVIDE, %ebx
    movl $0xb, (%rbx)               # by one
    movl $LAPIC_TIMER, %ebx
    movl $(0x20000 | VECTOR_TIMER), (%rbx)
    movl $LAPIC_TIMER_COUNT, %ebx
    movl $10000000, (%rbx)
    await timer_count, 3
    movl $LAPIC_TIMER, %ebx
    movl $0x10000, (%rbx)
    passed "local timer"

    # The PIT is at input 0, or 2 where a board says so.
    movl $0x10, %ecx
    movl $VECTOR_PIT, %eax
    call set_input
    movl $0x14, %ecx
    movl $VECTOR_PIT, %eax
    call set_input
    movb $0x34, %al
    outb %al, $0x43
    movb $0x00, %al
    outb %al, $0x40
    movb $0x20, %al
    outb %al, $0x40
    await pit_count, 3
    movl $0x10, %ecx
    movl $0x10000, %eax
    call set_input
    movl $0x14, %ecx
    movl $0x10000, %eax
    call set_input
    passed "PIT through the I/O APIC"

    movl $LAPIC_ICR, %ebx
    movl $(0x40000 | VECTOR_IPI), (%rbx)
    await ipi_count, 1
    passed "IPI to itself"

    movl $TRAMPOLINE, %edi
    movq $trampoline, %rsi
    movl $(trampoline_end - trampoline), %ecx
    cld
    rep movsb
    movl $LAPIC_ICR_HIGH, %ebx
    movl $(1 << 24), (%rbx)
    movl $LAPIC_ICR, %ebx
    movl $0x4500, (%rbx)            # INIT
    movl $(1 << 24), 0x10(%rbx)
    movl $(0x4600 | TRAMPOLINE >> 12), (%rbx)
    await cross_count, 1
    cmpl $1, second_id
    require e, "the second CPU's APIC ID"
    passed "second CPU"
    passed "all done"
    jmp power_off

# Writes EAX as the low half of the I/O APIC's entry at register ECX, for the first CPU.
set_input:
    movl $IOAPIC, %ebx
    incl %ecx
    movl %ecx, (%rbx)
    movl $0, 0x10(%rbx)
    decl %ecx
    movl %ecx, (%rbx)
    movl %eax, 0x10(%rbx)
    ret

fault_ud:
    pushq $0
    movq $6, fault_vector
    jmp fault
fault_gp:
    movq $13, fault_vector
    jmp fault
fault_pf:
    movq $14, fault_vector
fault:
    popq fault_error
    pushq %rax
    movq %cr2, %rax
    movq %rax, fault_address
    movq fault_resume, %rax
    movq %rax, 8(%rsp)
    popq %rax
    iretq

.macro counts name, counter
\name:
    pushq %rbx
    incq \counter
    movl $LAPIC_EOI, %ebx
    movl $0, (%rbx)
    popq %rbx
    iretq
.endm
    counts on_timer, timer_count
    counts on_pit, pit_count
    counts on_ipi, ipi_count
    counts on_cross, cross_count
on_spurious:
    iretq

# The second CPU: real mode, protected mode, long mode; says who it is by memory and an IPI to the first.
.code16
trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl gdt_pointer_low - trampoline
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $CODE32, $second32
gdt_pointer_low:
    .word GDT_LIMIT
    .long gdt
trampoline_end:

.code32
second32:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %ss
    movl $second_stack_top, %esp
    call enter_long
    ljmpl $CODE64, $second64

.code64
second64:
    movl $LAPIC_SPURIOUS, %ebx
    movl $0x1ff, (%rbx)
    movl $LAPIC_ID, %ebx
    movl (%rbx), %eax
    shrl $24, %eax
    movl %eax, second_id
    movl $LAPIC_ICR_HIGH, %ebx
    movl $0, (%rbx)
    movl $LAPIC_ICR, %ebx
    movl $VECTOR_CROSS, (%rbx)
1:  cli
    hlt
    jmp 1b

.data
.balign 8
idt_pointer:
    .word 0xfff
    .quad idt

.bss
.balign 4096
idt: .skip 0x1000
second_stack: .skip 0x1000
second_stack_top:
fault_vector: .skip 8
fault_error: .skip 8
fault_address: .skip 8
fault_resume: .skip 8
timer_count: .skip 8
pit_count: .skip 8
ipi_count: .skip 8
cross_count: .skip 8
second_id: .skip 8
