//! The arguments of a command: what it takes, and reading them off the rest of a line.

use super::expression::{Registers, evaluate};

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word, or several between quotation marks.
    Word,
    /// Everything up to the end of the line.
    Rest,
    /// A number.
    Number,
    /// Bytes; a number alone counts mebibytes.
    Size,
    /// `on` or `off`.
    Switch,
    /// A letter after a hyphen, there or not.
    Flag(char),
    /// A slash, a count, a letter and a size, as gdb has them.
    Format,
}

/// An argument of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) optional: bool,
}

/// An argument that must be there.
pub(super) const fn needs(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, optional: false }
}

/// An argument that may be left away.
pub(super) const fn may(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, optional: true }
}

/// How memory or a number is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// How many.
    pub(super) count: u32,
    /// `x`, `d`, `u`, `o`, `c` or `i`; none was given.
    pub(super) letter: Option<char>,
    /// Bytes of each; none was given.
    pub(super) size: Option<u8>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(u64),
    Flag,
    Format(Format),
}

/// The arguments that a line has.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    values: Vec<(&'static str, Value)>,
    /// The vCPU that the session looks at.
    pub(super) cpu: u32,
}

impl Arguments {
    fn value(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// A word; empty if it was left away.
    pub(super) fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    /// A word, if there is one.
    pub(super) fn optional_text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// A number; zero if it was left away.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.optional_number(name).unwrap_or(0)
    }

    /// A number, if there is one.
    pub(super) fn optional_number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(value)) => Some(*value),
            _ => None,
        }
    }

    /// Whether a flag or switch is on.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Flag | Value::Number(1..)))
    }

    /// The format; one of nothing in particular if it was left away.
    pub(super) fn format(&self, name: &str) -> Format {
        match self.value(name) {
            Some(Value::Format(format)) => *format,
            _ => Format { count: 1, letter: None, size: None },
        }
    }
}

/// Reads the arguments off what follows a command's name.
///
/// # Errors
/// What is wrong, as the monitor says it, without the command's name.
pub(super) fn read(params: &[Param], line: &str, registers: Registers<'_>, cpu: u32) -> Result<Arguments, String> {
    let mut arguments = Arguments { values: vec![], cpu };
    let mut rest = line;
    for param in params {
        // A format stands right after the name; all else after a space.
        if param.kind != Kind::Format {
            rest = rest.trim_start();
        }
        let value = match param.kind {
            Kind::Format => read_format(&mut rest)?.map(Value::Format),
            Kind::Flag(letter) => read_flag(&mut rest, letter),
            _ if rest.is_empty() => None,
            Kind::Word => Some(Value::Text(read_word(&mut rest)?)),
            Kind::Rest => Some(Value::Text(std::mem::take(&mut rest).trim_end().to_owned())),
            Kind::Number => {
                let (value, after) = evaluate(rest, registers).map_err(|error| error.to_string())?;
                rest = after;
                Some(Value::Number(value))
            }
            Kind::Size => Some(Value::Number(size(&read_word(&mut rest)?)?)),
            Kind::Switch => Some(Value::Number(u64::from(switch(&read_word(&mut rest)?)?))),
        };
        match value {
            Some(value) => arguments.values.push((param.name, value)),
            None if param.optional || matches!(param.kind, Kind::Flag(_) | Kind::Format) => {}
            None => return Err(format!("{} expected", expected(param))),
        }
    }
    if !rest.trim().is_empty() {
        return Err(format!("extraneous characters at the end of line: '{}'", rest.trim()));
    }
    Ok(arguments)
}

fn expected(param: &Param) -> String {
    let kind = match param.kind {
        Kind::Number => "integer",
        Kind::Size => "size",
        Kind::Switch => "on or off",
        _ => "string",
    };
    format!("{}: {kind}", param.name)
}

/// A word, or what stands between quotation marks, where a backslash takes the next character as it is.
fn read_word(rest: &mut &str) -> Result<String, String> {
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        return Ok(word.to_owned());
    };
    let mut word = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                *rest = characters.as_str();
                return Ok(word);
            }
            '\\' => match characters.next() {
                Some('n') => word.push('\n'),
                Some('r') => word.push('\r'),
                Some(character) => word.push(character),
                None => break,
            },
            character => word.push(character),
        }
    }
    Err("unterminated string".into())
}

fn read_flag(rest: &mut &str, letter: char) -> Option<Value> {
    let after = rest.strip_prefix('-')?.strip_prefix(letter)?;
    if !after.is_empty() && !after.starts_with(char::is_whitespace) {
        return None;
    }
    *rest = after;
    Some(Value::Flag)
}

fn read_format(rest: &mut &str) -> Result<Option<Format>, String> {
    let Some(text) = rest.trim_start().strip_prefix('/') else { return Ok(None) };
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (text, after) = text.split_at(end);
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - letters.len()];
    let mut format = Format { count: 1, letter: None, size: None };
    if !digits.is_empty() {
        format.count = digits.parse().map_err(|_| "too large a count".to_owned())?;
    }
    for letter in letters.chars() {
        match letter {
            'x' | 'd' | 'u' | 'o' | 'c' | 'i' => format.letter = Some(letter),
            'b' => format.size = Some(1),
            'h' => format.size = Some(2),
            'w' => format.size = Some(4),
            'g' | 'L' => format.size = Some(8),
            _ => return Err(format!("invalid char in format: '{letter}'")),
        }
    }
    *rest = after;
    Ok(Some(format))
}

/// Bytes from a number with a unit; without one it counts mebibytes.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, last)) if last.is_ascii_alphabetic() => (&text[..at], last.to_ascii_uppercase()),
        _ => (text, 'M'),
    };
    let shift = match unit {
        'B' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return Err(format!("invalid size '{text}': a number with B, K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("invalid size '{text}'"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("size '{text}' is too large"))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'on' or 'off' expected, not '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_flags_numbers_and_formats_are_told_apart() {
        let params = [may("force", Kind::Flag('f')), needs("device", Kind::Word), may("count", Kind::Number)];
        let read = |line| read(&params, line, &[], 0);
        let arguments = read(" -f \"a \\\"b\" 2 * 3").unwrap();
        assert!(arguments.flag("force"));
        assert_eq!((arguments.text("device").as_str(), arguments.number("count")), ("a \"b", 6));
        assert!(!read(" -force").unwrap().flag("force"));
        assert_eq!(read("").unwrap_err(), "device: string expected");
        assert!(read(" a 1 x").unwrap_err().contains("extraneous"));
        assert_eq!(read(" \"a").unwrap_err(), "unterminated string");
    }

    #[test]
    fn formats_follow_the_name_at_once() {
        let params = [may("format", Kind::Format), needs("address", Kind::Number)];
        let arguments = read(&params, "/10xg 0x1000", &[], 0).unwrap();
        assert_eq!(arguments.format("format"), Format { count: 10, letter: Some('x'), size: Some(8) });
        assert_eq!(read(&params, "/q 1", &[], 0).unwrap_err(), "invalid char in format: 'q'");
        assert!(read(&params, "/99999999999x 1", &[], 0).is_err());
    }

    #[test]
    fn sizes_count_mebibytes_unless_they_say_otherwise() {
        assert_eq!((size("512"), size("1G"), size("4k")), (Ok(512 << 20), Ok(1 << 30), Ok(4096)));
        assert!(size("G").is_err() && size("1x").is_err() && size("99999999T").is_err() && size("é").is_err());
    }
}
