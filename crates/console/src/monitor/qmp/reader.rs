//! Cutting a stream of bytes into JSON values. They may follow each other with or without white space between them, so their
//! ends are found by counting brackets outside of strings.

use crate::monitor::MAX_INPUT;

/// Collects bytes until they make up a value.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    /// How far `bytes` has been looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// A value is longer than any client has reason to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Brackets inside each other; serde_json has a limit of its own below this.
const MAX_DEPTH: usize = 1024;

impl Reader {
    /// Takes more bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.bytes.len() + bytes.len() > MAX_INPUT {
            return Err(TooLong);
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    /// The next complete value, as it was sent; whether it is valid JSON is not looked at.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        while let Some(&byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                // A value that is no object or array ends with its line.
                b'\n' => {}
                _ => continue,
            }
            let ends = matches!(byte, b'}' | b']' | b'\n') && self.depth == 0 || self.depth > MAX_DEPTH;
            if ends && !self.in_string {
                let value = self.cut();
                if !value.iter().all(u8::is_ascii_whitespace) {
                    return Some(value);
                }
            }
        }
        None
    }

    fn cut(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.seen);
        self.seen = 0;
        self.depth = 0;
        std::mem::replace(&mut self.bytes, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(chunks: &[&str]) -> Vec<String> {
        let mut reader = Reader::default();
        let mut found = vec![];
        for chunk in chunks {
            reader.push(chunk.as_bytes()).unwrap();
            while let Some(value) = reader.next() {
                found.push(String::from_utf8(value).unwrap().trim().to_owned());
            }
        }
        found
    }

    #[test]
    fn values_end_where_their_brackets_do() {
        assert_eq!(
            values(&["{\"a\": 1}{\"b\":", " [2, \"}\\\"\"]}\n\n", "oops\n{}"]),
            ["{\"a\": 1}", "{\"b\": [2, \"}\\\"\"]}", "oops", "{}"]
        );
        assert_eq!(values(&["}", "]{}"]), ["}", "]", "{}"]);
        assert_eq!(values(&[&"[".repeat(5000)]).len(), 4, "depth has an end");
    }

    #[test]
    fn length_has_an_end() {
        let mut reader = Reader::default();
        assert_eq!(reader.push(&vec![b'['; MAX_INPUT + 1]), Err(TooLong));
    }
}
