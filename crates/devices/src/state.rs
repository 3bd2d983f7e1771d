//! Values that the saved states of several chips are made of: queues of bytes, values that may be missing, and the refusal
//! of impossible ones. What a chip's state consists of is said by the chip.

use std::collections::VecDeque;

use ferro_guest::{LoadError, SaveState, StateReader, StateWriter};

/// An impossible value for `what`, unless `possible`.
pub(crate) fn check(possible: bool, what: &'static str) -> Result<(), LoadError> {
    if possible { Ok(()) } else { Err(LoadError::Value(what)) }
}

/// Writes the bytes of a queue.
pub(crate) fn save_queue(queue: &VecDeque<u8>, into: &mut StateWriter) {
    let (head, tail) = queue.as_slices();
    into.bytes(&[head, tail].concat());
}

/// Reads a queue that holds `most` bytes.
pub(crate) fn load_queue(
    most: usize,
    what: &'static str,
    from: &mut StateReader<'_>,
) -> Result<VecDeque<u8>, LoadError> {
    let bytes = from.bytes()?;
    check(bytes.len() <= most, what)?;
    Ok(bytes.iter().copied().collect())
}

/// Reads bytes of which there are always as many.
pub(crate) fn load_bytes(into: &mut [u8], what: &'static str, from: &mut StateReader<'_>) -> Result<(), LoadError> {
    let bytes = from.bytes()?;
    check(bytes.len() == into.len(), what)?;
    into.copy_from_slice(bytes);
    Ok(())
}

/// Writes a byte that may be missing.
pub(crate) fn save_option_u8(value: Option<u8>, into: &mut StateWriter) {
    into.bool(value.is_some());
    into.u8(value.unwrap_or(0));
}

/// Reads a byte that may be missing.
pub(crate) fn load_option_u8(from: &mut StateReader<'_>) -> Result<Option<u8>, LoadError> {
    let (there, value) = (from.bool()?, from.u8()?);
    Ok(there.then_some(value))
}

/// Writes a time that may be missing.
pub(crate) fn save_option_u64(value: Option<u64>, into: &mut StateWriter) {
    into.bool(value.is_some());
    into.u64(value.unwrap_or(0));
}

/// Reads a time that may be missing.
pub(crate) fn load_option_u64(from: &mut StateReader<'_>) -> Result<Option<u64>, LoadError> {
    let (there, value) = (from.bool()?, from.u64()?);
    Ok(there.then_some(value))
}

/// Writes a part of a chip that has a version of its own.
pub(crate) fn save_part<T: SaveState>(part: &T, into: &mut StateWriter) {
    into.u32(T::VERSION);
    part.save(into);
}

/// Reads what [`save_part`] wrote.
pub(crate) fn load_part<T: SaveState>(part: &mut T, from: &mut StateReader<'_>) -> Result<(), LoadError> {
    let found = from.u32()?;
    if !(1..=T::VERSION).contains(&found) {
        return Err(LoadError::Version { found, known: T::VERSION });
    }
    part.load(found, from)
}
