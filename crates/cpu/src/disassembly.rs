//! Machine code as text, in AT&T's syntax as gdb and QEMU's monitor print it: for messages and debuggers. The CPU itself
//! has no use for it.

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};

/// One instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disassembled {
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it says; `(bad)` where the bytes are no instruction.
    pub text: String,
}

/// Disassembles `code`, whose first byte is at `address`, for a code segment of 16, 32 or 64 `bits`; an instruction that is
/// cut off at the end is left out, unless it is the only one.
///
/// # Panics
/// With another number of bits.
pub fn disassemble(code: &[u8], address: u64, bits: u32) -> Vec<Disassembled> {
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(false);
    formatter.options_mut().set_uppercase_hex(false);
    let mut found = vec![];
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        let mut text = String::new();
        if instruction.is_invalid() {
            if !found.is_empty() && decoder.position() == code.len() {
                break;
            }
            text.push_str("(bad)");
        } else {
            formatter.format(&instruction, &mut text);
        }
        found.push(Disassembled { address: instruction.ip(), bytes: code[start..decoder.position()].to_vec(), text });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart_and_read_as_gdb_prints_them() {
        let code = [0xb8, 0x2a, 0, 0, 0, 0x48, 0x89, 0x43, 0x08, 0xf3, 0xa4, 0xc3];
        let texts: Vec<_> = disassemble(&code, 0x1000, 64).into_iter().map(|one| (one.address, one.text)).collect();
        let expected = [
            (0x1000, "mov $0x2a,%eax"),
            (0x1005, "mov %rax,8(%rbx)"),
            (0x1009, "rep movsb (%rsi),(%rdi)"),
            (0x100b, "ret"),
        ];
        assert_eq!(texts, expected.map(|(address, text)| (address, text.to_owned())));
        assert_eq!(disassemble(&[0xb8, 0x2a, 0], 0, 16)[0].text, "mov $0x2a,%ax");
    }

    #[test]
    fn what_is_no_instruction_is_called_bad_and_ends() {
        assert_eq!(disassemble(&[0x06], 0, 64)[0].text, "(bad)");
        assert_eq!(disassemble(&[0x90, 0x48], 0, 64).len(), 1, "the second one is cut off");
        assert_eq!(disassemble(&[], 0, 32), []);
    }
}
