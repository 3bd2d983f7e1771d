//! What cached blocks must not hide: translations that change under them, code that changes inside of loops, and budgets
//! that end within pairs of instructions.

mod machine;

use ferro_cpu::Exit;
use machine::{CODE, Machine, TABLE};

const UD: u64 = 6;
const PF: u64 = 14;

/// Runs to the halt in a handler; returns its vector.
fn vector(machine: &mut Machine) -> u64 {
    assert_eq!(machine.run(10_000), Exit::Halted);
    machine.handler().0
}

/// Code that calls 0x50000, changes the page there by `change`, and calls again; then UD2.
fn call_twice(change: &[u8]) -> Vec<u8> {
    // mov ebx, 0x50000; call rbx; mov ecx, eax
    let mut code = b"\xbb\x00\x00\x05\x00\xff\xd3\x89\xc1".to_vec();
    // mov qword [TABLE + 0x50 * 8], 0x60007
    code.extend(b"\x48\xc7\x04\x25");
    code.extend(((TABLE + 0x50 * 8) as u32).to_le_bytes());
    code.extend(0x60007_u32.to_le_bytes());
    code.extend(change);
    // call rbx; ud2
    code.extend(b"\xff\xd3\x0f\x0b");
    code
}

#[test]
fn code_at_a_changed_translation_is_found_anew() {
    // invlpg [rbx]; mov rdx, cr3, mov cr3, rdx
    for change in [&b"\x0f\x01\x3b"[..], b"\x0f\x20\xda\x0f\x22\xda"] {
        let mut machine = Machine::new(&call_twice(change), false);
        // mov eax, N; ret
        machine.memory.write(0x5_0000, b"\xb8\x01\x00\x00\x00\xc3");
        machine.memory.write(0x6_0000, b"\xb8\x02\x00\x00\x00\xc3");
        assert_eq!(vector(&mut machine), UD);
        let registers = machine.cpu.registers();
        assert_eq!((registers.gpr[1], registers.gpr[0]), (1, 2));
    }
}

#[test]
fn a_loop_that_changes_itself_executes_what_it_wrote() {
    // mov ecx, 3; top: inc eax (at 5); mov byte [rip - 7 + 1], 0xc8 -> dec eax; dec ecx; jnz top; ud2
    let code = b"\xb9\x03\x00\x00\x00\xff\xc0\xc6\x05\xf8\xff\xff\xff\xc8\xff\xc9\x75\xf3\x0f\x0b";
    let mut machine = Machine::new(code, false);
    machine.edit(|registers| registers.gpr[0] = 10);
    assert_eq!(vector(&mut machine), UD);
    assert_eq!(machine.cpu.registers().gpr[0], 9, "once up, twice down");
}

#[test]
fn a_budget_may_end_between_a_comparison_and_its_branch() {
    // top: inc rax; cmp rax, 1000; jne top; ud2
    let code = b"\x48\xff\xc0\x48\x3d\xe8\x03\x00\x00\x75\xf5\x0f\x0b";
    let mut machine = Machine::new(code, false);
    machine.edit(|registers| registers.gpr[0] = 0);
    let begin = machine.cpu.instructions();
    assert_eq!(machine.run(302), Exit::Budget);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0], registers.rip), (101, CODE + 9));
    assert_eq!(machine.cpu.instructions() - begin, 302);
}

#[test]
fn a_fault_shows_the_flags_of_the_instruction_before() {
    // xor eax, eax; add eax, -1 (carry clear, sign set); mov [unmapped], eax; xor ecx, ecx; ud2
    let mut code = b"\x31\xc0\x83\xc0\xff\x89\x04\x25".to_vec();
    code.extend(0x7000_0000_u32.to_le_bytes());
    code.extend(b"\x31\xc9\x0f\x0b");
    let mut machine = Machine::new(&code, false);
    assert_eq!(vector(&mut machine), PF);
    // Error code, RIP, CS, RFLAGS on the stack.
    let stack = machine.cpu.registers().gpr[4];
    let saved: u64 = machine.memory.load(stack + 24).unwrap();
    assert_eq!(saved & 0x8d5, 0x84, "SF and PF of -1");
}
