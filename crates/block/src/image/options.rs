//! `key=value,key=value` as QEMU writes options: a comma in a value is doubled. And a JSON object as the same thing. Knows no
//! option's meaning.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// The most keys taken, and the deepest nesting of a JSON description.
const MAX_KEYS: usize = 512;
const MAX_DEPTH: usize = 32;

/// Options by name; nested ones have dotted names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyValues(BTreeMap<String, String>);

impl KeyValues {
    /// Reads `a=b,c=d`. A first part without `=` is the value of `implied`; any other is a switch, on, or off with `no`.
    ///
    /// # Errors
    /// An empty name, more than 512 of them.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self> {
        let mut values = Self::default();
        for (index, part) in split(text).into_iter().enumerate() {
            match (part.split_once('='), implied) {
                (Some((key, value)), _) => values.set(key, value),
                (None, Some(implied)) if index == 0 => values.set(implied, &part),
                (None, _) if part.is_empty() => Ok(()),
                (None, _) => values.set(&part, "on"),
            }?;
        }
        Ok(values)
    }

    /// Reads a JSON object; an object within is flattened, a list's elements are numbered.
    ///
    /// # Errors
    /// Not an object, too deep, too many names.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| Error::Invalid(format!("json: {error}")))?;
        let mut values = Self::default();
        if !value.is_object() {
            return Err(Error::Invalid("json: an image is described by an object".into()));
        }
        values.flatten("", &value, 0)?;
        Ok(values)
    }

    fn flatten(&mut self, prefix: &str, value: &serde_json::Value, depth: usize) -> Result<()> {
        use serde_json::Value;
        if depth > MAX_DEPTH {
            return Err(Error::Invalid("json: nested too deeply".into()));
        }
        let join = |key: &str| if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(map) => map.iter().try_for_each(|(key, value)| self.flatten(&join(key), value, depth + 1)),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| self.flatten(&join(&index.to_string()), value, depth + 1)),
            Value::String(text) => self.set(prefix, text),
            Value::Bool(true) => self.set(prefix, "on"),
            Value::Bool(false) => self.set(prefix, "off"),
            Value::Number(number) => self.set(prefix, &number.to_string()),
            Value::Null => self.set(prefix, ""),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if key.is_empty() {
            return Err(Error::Invalid(format!("Invalid parameter '={value}'")));
        }
        if self.0.len() >= MAX_KEYS {
            return Err(Error::Invalid("too many options".into()));
        }
        self.0.insert(key.into(), value.into());
        Ok(())
    }

    /// Adds options, those of `other` winning.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Sets one option.
    pub fn insert(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Takes an option out.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// An option's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Takes out all options below `prefix.`, without the prefix.
    pub fn take_below(&mut self, prefix: &str) -> Self {
        let prefix = format!("{prefix}.");
        let below = self.0.keys().filter(|key| key.starts_with(&prefix)).cloned().collect::<Vec<_>>();
        Self(
            below.into_iter().filter_map(|key| Some((key[prefix.len()..].to_string(), self.0.remove(&key)?))).collect(),
        )
    }

    /// Takes a switch: on/off, yes/no, true/false, y/n.
    ///
    /// # Errors
    /// Another value.
    pub fn take_switch(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => Err(Error::Invalid(format!("Parameter '{key}' expects 'on' or 'off'"))),
        }
    }

    /// Takes a number of bytes with an optional suffix.
    ///
    /// # Errors
    /// Not a size.
    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>> {
        self.take(key)
            .map(|text| {
                parse_size(&text).ok_or_else(|| {
                    Error::Invalid(format!("Parameter '{key}' expects a non-negative number below 2^64"))
                })
            })
            .transpose()
    }

    /// Takes a number.
    ///
    /// # Errors
    /// Not a number.
    pub fn take_number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let wrong = || Error::Invalid(format!("Parameter '{key}' expects a number"));
        self.take(key).map(|text| text.parse().map_err(|_| wrong())).transpose()
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// There is an option left.
    pub fn finish(&self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::Invalid(format!("Invalid parameter '{key}'"))),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads a size as QEMU does: a number, which may have a fraction, and b, k, M, G, T, P or E, which are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        "e" => 1 << 60,
        _ => return None,
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, fraction) = digits.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Splits at single commas; a double comma is a comma.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let comma = letter == ',' && letters.next_if_eq(&',').is_none();
        match parts.last_mut() {
            Some(part) if !comma => part.push(letter),
            _ => parts.push(String::new()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_single_commas() {
        let mut values = KeyValues::parse("qcow2,file.filename=a,,b,lazy", Some("driver")).expect("options");
        assert_eq!(values.take("driver").as_deref(), Some("qcow2"));
        assert_eq!(values.take_below("file").get("filename"), Some("a,b"));
        assert_eq!(values.take_switch("lazy").expect("a switch"), Some(true));
        values.finish().expect("nothing is left");
        assert!(KeyValues::parse("=1", None).is_err());
    }

    #[test]
    fn json_is_flattened() {
        let values =
            KeyValues::from_json(r#"{"driver":"qcow2","file":{"filename":"x"},"n":[1,true]}"#).expect("options");
        assert_eq!(values.get("file.filename"), Some("x"));
        assert_eq!((values.get("n.0"), values.get("n.1")), (Some("1"), Some("on")));
        assert!(KeyValues::from_json("[]").is_err());
        assert!(KeyValues::from_json(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn sizes_have_suffixes() {
        for (text, size) in [
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("1000", 1000),
            ("2b", 2),
            ("4k", 4096),
            ("0x10", 16),
            ("1E", 1 << 60),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for bad in ["", "10Q", "-1", "1.", "99E", "M", "1.x"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
