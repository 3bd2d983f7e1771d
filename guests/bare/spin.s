# A guest that does nothing but work: says so by one character on COM1, and counts for ever. Boots by PVH; needs no stack.

.section .note.pvh, "a", @note
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

.text
.code32
.globl start
start:
    cli
    movl $0x3f8, %edx
    movb $'!', %al
    outb %al, %dx
1:  incl %eax
    jmp 1b
