//! Sizes and times as qemu-img writes them.

use ferro_block::image::parse_size;

/// A size in bytes from the command line.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).filter(|&size| size <= i64::MAX as u64);
    size.ok_or_else(|| "a size is a number with k, M, G, T, P or E (powers of 1024) after it".into())
}

/// Three significant digits and a binary unit: `196 KiB`, `2.19 MiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    let mut unit = 0;
    // The next unit begins at 1000, not at 1024, so that three digits suffice.
    while unit < 6 && (bytes as f64) / 1024f64.powi(unit) >= 1000.0 {
        unit += 1;
    }
    let value = bytes as f64 / 1024f64.powi(unit);
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit as usize];
    format!("{} {name}", three_digits(value))
}

/// C's `%.3g` for numbers below 1000.
fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits_before = value.log10().floor() as i32 + 1;
    let decimals = (3 - digits_before).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A point in time in this machine's time zone: `2026-11-22 20:43:20`.
pub(super) fn date(seconds: u32) -> String {
    chrono::DateTime::from_timestamp(i64::from(seconds), 0)
        .map_or_else(String::new, |time| time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string())
}

/// A machine's clock: `00:00:00.000`.
pub(super) fn clock(seconds: u64, nanoseconds: u32) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, nanoseconds / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (200_704, "196 KiB"),
            (2_297_856, "2.19 MiB"),
            (67_108_864, "64 MiB"),
            (1_073_741_824, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
