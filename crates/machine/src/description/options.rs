//! Texts of the form `first,key=value,…`, in which several flags are given.

use super::{DescriptionError, refuse};

/// Splits `first,key=value,…`; a doubled comma stands for one in a value.
pub(crate) fn split_options(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            parts.last_mut().expect("never empty").push(c);
        } else if chars.next_if_eq(&',').is_some() {
            parts.last_mut().expect("never empty").push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// `on` or `off`, in the spellings that QEMU takes.
pub(crate) fn switch(value: &str) -> Result<bool, DescriptionError> {
    match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => refuse(value, "this is on or off"),
    }
}
