//! Numbers as the monitor takes them: C's operators on 64-bit integers, and a vCPU's registers as `$rip`.

/// Why a number can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpressionError {
    /// There is none.
    #[error("integer expected")]
    Missing,
    /// Something in it is no number; the text from there.
    #[error("invalid char '{0}' in expression")]
    Unexpected(char),
    /// A parenthesis that isn't closed.
    #[error("')' expected")]
    Parenthesis,
    /// A register that there isn't.
    #[error("unknown register '${0}'")]
    Register(String),
    /// A division by zero.
    #[error("division by zero")]
    Division,
    /// A number beyond 64 bits.
    #[error("integer too large")]
    Overflow,
    /// More parentheses or signs inside each other than anybody types.
    #[error("expression too deep")]
    Depth,
}

/// Registers by name, without the dollar sign.
pub(super) type Registers<'a> = &'a [(String, u64)];

const MAX_DEPTH: u32 = 64;

/// Evaluates the expression at the beginning of a text; its value, and what follows it.
///
/// # Errors
/// Text that begins with no expression.
pub(super) fn evaluate<'a>(text: &'a str, registers: Registers<'_>) -> Result<(u64, &'a str), ExpressionError> {
    let mut parser = Parser { rest: text, registers, depth: 0 };
    parser.skip();
    if parser.rest.is_empty() {
        return Err(ExpressionError::Missing);
    }
    let value = parser.sum()?;
    Ok((value, parser.rest))
}

struct Parser<'a, 'r> {
    rest: &'a str,
    registers: Registers<'r>,
    depth: u32,
}

impl Parser<'_, '_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes one of these characters, if it comes next.
    fn take(&mut self, wanted: &[char]) -> Option<char> {
        let rest = self.rest.trim_start();
        let next = rest.chars().next().filter(|next| wanted.contains(next))?;
        // After a space it may be a path, where no number follows.
        let number =
            |next: char| next.is_whitespace() || next.is_ascii_digit() || matches!(next, '$' | '(' | '-' | '~');
        if next == '/' && rest.len() < self.rest.len() && !rest[1..].chars().next().is_some_and(number) {
            return None;
        }
        self.skip();
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn sum(&mut self) -> Result<u64, ExpressionError> {
        let mut value = self.bits()?;
        while let Some(operator) = self.take(&['+', '-']) {
            let right = self.bits()?;
            value = if operator == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn bits(&mut self) -> Result<u64, ExpressionError> {
        let mut value = self.product()?;
        while let Some(operator) = self.take(&['&', '|', '^']) {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<u64, ExpressionError> {
        let mut value = self.unary()?;
        while let Some(operator) = self.take(&['*', '/', '%']) {
            let right = self.unary()?;
            value = match operator {
                '*' => Some(value.wrapping_mul(right)),
                '/' => value.checked_div(right),
                _ => value.checked_rem(right),
            }
            .ok_or(ExpressionError::Division)?;
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<u64, ExpressionError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpressionError::Depth);
        }
        let value = match self.take(&['+', '-', '~', '(']) {
            Some('+') => self.unary(),
            Some('-') => self.unary().map(u64::wrapping_neg),
            Some('~') => self.unary().map(|value| !value),
            Some(_) => {
                let value = self.sum()?;
                self.take(&[')']).map(|_| value).ok_or(ExpressionError::Parenthesis)
            }
            None => self.primary(),
        };
        self.depth -= 1;
        value
    }

    fn primary(&mut self) -> Result<u64, ExpressionError> {
        self.skip();
        let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        if let Some(name) = self.rest.strip_prefix('$') {
            let (name, rest) = name.split_at(word(name));
            self.rest = rest;
            let found = self.registers.iter().find(|(known, _)| known == name || alias(name) == Some(known.as_str()));
            return found.map(|(_, value)| *value).ok_or_else(|| ExpressionError::Register(name.to_owned()));
        }
        if let Some(quoted) = self.rest.strip_prefix('\'') {
            let mut characters = quoted.chars();
            if let (Some(value), Some('\'')) = (characters.next(), characters.next()) {
                self.rest = characters.as_str();
                return Ok(u64::from(u32::from(value)));
            }
        }
        let (digits, rest) = self.rest.split_at(word(self.rest));
        let Some(first) = digits.chars().next() else {
            return Err(self.rest.chars().next().map_or(ExpressionError::Missing, ExpressionError::Unexpected));
        };
        let parsed = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None if first == '0' && digits.len() > 1 => u64::from_str_radix(digits, 8),
            None => digits.parse(),
        };
        self.rest = rest;
        parsed.map_err(|error| match error.kind() {
            std::num::IntErrorKind::PosOverflow => ExpressionError::Overflow,
            _ => ExpressionError::Unexpected(digits.chars().find(|c| !c.is_ascii_digit()).unwrap_or(first)),
        })
    }
}

/// The names that everybody types for 64-bit registers.
fn alias(name: &str) -> Option<&'static str> {
    Some(match name {
        "pc" | "eip" => "rip",
        "sp" | "esp" => "rsp",
        "fp" | "ebp" => "rbp",
        "eax" => "rax",
        "ebx" => "rbx",
        "ecx" => "rcx",
        "edx" => "rdx",
        "esi" => "rsi",
        "edi" => "rdi",
        "eflags" | "rflags" => "eflags",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<u64, ExpressionError> {
        let registers = [("rip".to_owned(), 0x1000), ("rax".to_owned(), 7)];
        evaluate(text, &registers).map(|(value, _)| value)
    }

    #[test]
    fn operators_bind_as_in_the_monitor() {
        assert_eq!(value("1 + 2 * 3"), Ok(7));
        assert_eq!(value("(1+2)*3"), Ok(9));
        assert_eq!(value("0x10|1"), Ok(0x11));
        assert_eq!(value("-1"), Ok(u64::MAX));
        assert_eq!(value("~0 & 0xff"), Ok(0xff));
        assert_eq!(value("$pc+$eax"), Ok(0x1007));
        assert_eq!(value("010"), Ok(8));
        assert_eq!(value("'A'"), Ok(65));
        assert_eq!(evaluate("0x80 5", &[]), Ok((0x80, " 5")));
        assert_eq!(evaluate("16 /tmp/x", &[]), Ok((16, " /tmp/x")));
        assert_eq!(value("16 / 2"), Ok(8));
        assert_eq!(value("16/2"), Ok(8));
    }

    #[test]
    fn what_is_no_number_is_told() {
        assert_eq!(value(""), Err(ExpressionError::Missing));
        assert_eq!(value("1/0"), Err(ExpressionError::Division));
        assert_eq!(value("(1"), Err(ExpressionError::Parenthesis));
        assert_eq!(value("$xyz"), Err(ExpressionError::Register("xyz".into())));
        assert_eq!(value("12ab"), Err(ExpressionError::Unexpected('a')));
        assert_eq!(value("99999999999999999999"), Err(ExpressionError::Overflow));
        assert_eq!(value(&"(".repeat(100_000)), Err(ExpressionError::Depth));
        assert_eq!(value(&"-".repeat(100_000)), Err(ExpressionError::Depth));
    }
}
