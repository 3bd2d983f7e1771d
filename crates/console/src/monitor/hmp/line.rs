//! Editing a line on a terminal in raw mode: the keys that readline has, history, completion. Terminal control is
//! ECMA-48's, of which every terminal knows this little.

use std::collections::VecDeque;

/// Lines that are remembered.
const HISTORY: usize = 64;
/// Characters in a line; more are not taken.
const MAX_LINE: usize = 4096;

/// What typing a byte came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Bytes for the terminal.
    Show(Vec<u8>),
    /// The line is complete.
    Line(String),
    /// End of input (^D on an empty line).
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    Control(u16),
}

/// The line being edited.
#[derive(Debug, Default)]
pub struct LineEditor {
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    escape: Escape,
    /// Bytes of a character that isn't complete.
    partial: Vec<u8>,
    history: VecDeque<String>,
    /// Where in the history the line comes from, counted from its end.
    recalled: usize,
}

impl LineEditor {
    /// An editor that shows this before each line.
    pub fn new(prompt: &str) -> Self {
        Self { prompt: prompt.to_owned(), ..Self::default() }
    }

    /// The prompt and the line, drawn anew.
    pub fn redraw(&self) -> Vec<u8> {
        let line: String = self.line.iter().collect();
        let mut bytes = format!("\r\x1b[K{}{line}", self.prompt).into_bytes();
        let back = self.line.len() - self.cursor;
        if back > 0 {
            bytes.extend(format!("\x1b[{back}D").into_bytes());
        }
        bytes
    }

    /// Takes one typed byte; `complete` tells the lines that a line could become.
    pub fn take(&mut self, byte: u8, complete: impl Fn(&str) -> Vec<String>) -> Vec<Edit> {
        if self.escape != Escape::None {
            return self.escape_sequence(byte);
        }
        match byte {
            0x1b => self.escape = Escape::Begun,
            b'\r' | b'\n' => return self.finish(),
            0x04 if self.line.is_empty() => return vec![Edit::End],
            0x01 => self.cursor = 0,
            0x05 => self.cursor = self.line.len(),
            0x02 => self.cursor = self.cursor.saturating_sub(1),
            0x06 => self.cursor = (self.cursor + 1).min(self.line.len()),
            0x04 => self.delete(),
            0x08 | 0x7f => self.backspace(),
            0x0b => self.line.truncate(self.cursor),
            0x15 => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            0x17 => self.delete_word(),
            0x03 => self.replace(""),
            0x0c => return vec![Edit::Show([b"\x1b[2J\x1b[H", &self.redraw()[..]].concat())],
            0x10 => self.recall(1),
            0x0e => self.recall(-1),
            b'\t' => return self.complete(&complete),
            0..0x20 => return vec![],
            byte => self.character(byte),
        }
        if self.escape == Escape::None { vec![Edit::Show(self.redraw())] } else { vec![] }
    }

    fn escape_sequence(&mut self, byte: u8) -> Vec<Edit> {
        let escape = std::mem::take(&mut self.escape);
        match (escape, byte) {
            (Escape::Begun, b'[' | b'O') => {
                self.escape = Escape::Control(0);
                return vec![];
            }
            (Escape::Control(number), b'0'..=b'9') => {
                let number = number.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                self.escape = Escape::Control(number);
                return vec![];
            }
            (Escape::Control(_), b'A') => self.recall(1),
            (Escape::Control(_), b'B') => self.recall(-1),
            (Escape::Control(_), b'C') => self.cursor = (self.cursor + 1).min(self.line.len()),
            (Escape::Control(_), b'D') => self.cursor = self.cursor.saturating_sub(1),
            (Escape::Control(_), b'H') | (Escape::Control(1 | 7), b'~') => self.cursor = 0,
            (Escape::Control(_), b'F') | (Escape::Control(4 | 8), b'~') => self.cursor = self.line.len(),
            (Escape::Control(3), b'~') => self.delete(),
            _ => return vec![],
        }
        vec![Edit::Show(self.redraw())]
    }

    fn character(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                if let Some(character) = text.chars().next().filter(|_| self.line.len() < MAX_LINE) {
                    self.line.insert(self.cursor, character);
                    self.cursor += 1;
                }
                self.partial.clear();
            }
            Err(error) if error.error_len().is_some() => self.partial.clear(),
            Err(_) => {}
        }
    }

    fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.line.remove(self.cursor);
        }
    }

    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn delete_word(&mut self) {
        let before = &self.line[..self.cursor];
        let end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |at| at + 1);
        let start = before[..end].iter().rposition(|c| c.is_whitespace()).map_or(0, |at| at + 1);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn replace(&mut self, line: &str) {
        self.line = line.chars().collect();
        self.cursor = self.line.len();
    }

    fn recall(&mut self, step: isize) {
        let Some(at) = self.recalled.checked_add_signed(step).filter(|at| *at <= self.history.len()) else { return };
        self.recalled = at;
        let line = at.checked_sub(1).and_then(|back| self.history.iter().rev().nth(back)).cloned().unwrap_or_default();
        self.replace(&line);
    }

    fn finish(&mut self) -> Vec<Edit> {
        let line: String = std::mem::take(&mut self.line).into_iter().collect();
        (self.cursor, self.recalled) = (0, 0);
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            self.history.push_back(line.clone());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        vec![Edit::Show(b"\r\n".to_vec()), Edit::Line(line)]
    }

    fn complete(&mut self, complete: &impl Fn(&str) -> Vec<String>) -> Vec<Edit> {
        let line: String = self.line[..self.cursor].iter().collect();
        let found = complete(&line);
        let mut shown = vec![];
        match &found[..] {
            [] => {}
            [only] => self.replace(&format!("{only} ")),
            many => {
                let common = common_start(many);
                if common.len() > line.len() {
                    self.replace(&common);
                } else {
                    shown.extend(format!("\r\n{}\r\n", many.join("  ")).into_bytes());
                }
            }
        }
        shown.extend(self.redraw());
        vec![Edit::Show(shown)]
    }
}

fn common_start(words: &[String]) -> String {
    let Some((first, others)) = words.split_first() else { return String::new() };
    let same = |(at, c): &(usize, char)| others.iter().all(|other| other[..].chars().nth(*at) == Some(*c));
    first.chars().enumerate().take_while(same).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(editor: &mut LineEditor, bytes: &[u8]) -> Vec<String> {
        let complete = |line: &str| {
            let all = ["system_reset", "system_powerdown", "stop"];
            all.iter().filter(|word| word.starts_with(line)).map(|word| (*word).to_owned()).collect()
        };
        let edits = bytes.iter().flat_map(|byte| editor.take(*byte, complete)).collect::<Vec<_>>();
        edits.into_iter().filter_map(|edit| if let Edit::Line(line) = edit { Some(line) } else { None }).collect()
    }

    #[test]
    fn a_line_is_edited_recalled_and_completed() {
        let mut editor = LineEditor::new("> ");
        assert_eq!(typed(&mut editor, b"innfo\x08\x08\x08fo statux\x7fs\r"), ["info status"]);
        assert_eq!(typed(&mut editor, b"\x1b[A!\x1b[D\x1b[D\x1b[3~\r"), ["info statu!"]);
        assert_eq!(typed(&mut editor, b"\x1b[A\x1b[A\x1b[B\x1b[B\r"), [""]);
        assert_eq!(typed(&mut editor, b"sto\t\r"), ["stop "]);
        assert_eq!(typed(&mut editor, b"sy\tr\t\r"), ["system_reset "]);
        assert_eq!(typed(&mut editor, b"one two\x17\x17x\x01a\x05b\x15\r"), [""]);
        assert_eq!(typed(&mut editor, "è più\r".as_bytes()), ["è più"]);
        assert_eq!(editor.take(4, |_| vec![]), [Edit::End]);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut editor = LineEditor::new("");
        for seed in 0..50_000_u32 {
            let byte = (seed.wrapping_mul(2_654_435_761) >> 13) as u8;
            editor.take(byte, |line| vec![format!("{line}a"), format!("{line}é")]);
        }
        assert!(editor.line.len() <= MAX_LINE + 2 && editor.history.len() <= HISTORY);
    }
}
