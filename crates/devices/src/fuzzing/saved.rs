//! Saved states under random accesses: a chip is driven into the middle of things, saved, and loaded into a new one; from
//! then on both must answer alike, and a damaged section must be refused or leave a chip that still can't panic. Which chips
//! there are, and how an access drives each, is in `specimens`.

use ferro_guest::{LoadError, StateReader};

use super::specimens::{KINDS, Specimen, specimen};
use super::{Access, accesses};

/// The chip that the bytes choose; their first half drives it before it is saved, the second half both chips afterwards, and
/// damages sections.
///
/// # Panics
/// The two chips differ, or the section of the one isn't taken by the other.
pub fn chip_state(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let (before, after) = rest.split_at(rest.len() / 2);
    let kind = kind % KINDS;
    let mut old = specimen(kind);
    accesses(before).for_each(|access| _ = old.access(&access));
    let section = old.save();
    assert_alike(&mut *old, kind, &section, after);
    damage(&*old, kind, &section, after);
}

/// How many chips [`chip_state`] knows by its first byte.
pub const CHIPS: u8 = KINDS;

fn assert_alike(old: &mut dyn Specimen, kind: u8, section: &[u8], accesses_after: &[u8]) {
    let mut new = specimen(kind);
    new.share_surroundings(old);
    load(&mut *new, section).unwrap_or_else(|error| panic!("chip {kind} doesn't take its own section: {error}"));
    assert_eq!(new.lines(), old.lines(), "interrupt lines of chip {kind}");
    assert_eq!(new.save(), section, "chip {kind} saves something else than it loaded");
    old.forget_messages();
    for (index, access) in accesses(accesses_after).enumerate() {
        let (new_answer, old_answer) = (new.access(&access), old.access(&access));
        assert_eq!(new_answer, old_answer, "access {index} to chip {kind}: {access:x?}");
        assert_eq!((new.lines(), new.messages()), (old.lines(), old.messages()), "after access {index} to chip {kind}");
    }
    assert_eq!(new.save(), old.save(), "chip {kind} afterwards");
}

fn load(chip: &mut dyn Specimen, section: &[u8]) -> Result<(), LoadError> {
    let mut reader = StateReader::new(section);
    chip.load(&mut reader)?;
    reader.finish()
}

/// Sections with bytes changed and without their end.
fn damage(old: &dyn Specimen, kind: u8, section: &[u8], bytes: &[u8]) {
    let mut damaged = section.to_vec();
    for Access { target, offset, value, .. } in accesses(bytes).take(8) {
        let len = damaged.len().max(1);
        if let Some(byte) = damaged.get_mut(offset as usize % len) {
            *byte = if target & 1 != 0 { value as u8 } else { *byte ^ 1 << (value & 7) };
        }
        survive(old, kind, &damaged, bytes);
    }
    for len in [0, section.len() / 3, section.len() / 2, section.len().saturating_sub(1)] {
        let cut = &section[..len];
        if len < section.len() {
            assert!(load(&mut *specimen(kind), cut).is_err(), "chip {kind} takes {len} bytes of {}", section.len());
        }
    }
}

/// Whatever it loads, a chip answers accesses afterwards.
fn survive(old: &dyn Specimen, kind: u8, section: &[u8], bytes: &[u8]) {
    let mut chip = specimen(kind);
    chip.share_surroundings(old);
    if load(&mut *chip, section).is_ok() {
        accesses(bytes).take(500).for_each(|access| _ = chip.access(&access));
        chip.save();
    }
}
