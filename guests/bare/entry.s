# How every guest without an operating system begins: by PVH, then to long mode with 4 GiB mapped one to one, and to the
# guest's own `main` with a stack.

.set CODE64, 0x08
.set DATA, 0x10

.section .note.pvh, "a", @note
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

.text
.code32
.globl start
start:
    cli
    lgdtl gdt_pointer
    movl $stack_top, %esp
    # One to one for 4 GiB, in pages of 2 MiB.
    movl $(pointers + 3), tables
    movl $(directories + 3), %eax
    movl $pointers, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $0x83, %eax
    movl $directories, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    call enter_long
    ljmpl $CODE64, $begin

# Paging and long mode on, for any CPU.
.globl enter_long
enter_long:
    movl $0x20, %eax                # PAE
    movl %eax, %cr4
    movl $tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax           # PG, WP, PE
    movl %eax, %cr0
    ret

.code64
begin:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq $stack_top, %rsp
    call main
1:  cli
    hlt
    jmp 1b

.data
.balign 8
.globl gdt, GDT_LIMIT
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 64-bit code
    .quad 0x00cf93000000ffff        # data
    .quad 0x00cf9b000000ffff        # 32-bit code
.set GDT_LIMIT, . - gdt - 1
gdt_pointer:
    .word GDT_LIMIT
    .quad gdt

.bss
.balign 4096
tables: .skip 0x1000
pointers: .skip 0x1000
.globl directories
directories: .skip 0x4000
stack: .skip 0x4000
stack_top:
