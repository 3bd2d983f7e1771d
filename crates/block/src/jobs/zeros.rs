//! Whether bytes are all zero, as fast as memory goes.

/// Bytes looked at in one step, which the compiler turns into vector instructions.
const STEP: usize = 128;

/// Whether all of `bytes` are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    steps.iter().all(|step| step.iter().fold(0, |seen, byte| seen | byte) == 0) && rest.iter().all(|&byte| byte == 0)
}

/// The run at the beginning of `bytes` of which every whole or partial `unit` is zero, or isn't: its length and which.
pub(super) fn run(bytes: &[u8], unit: usize) -> (usize, bool) {
    let mut units = bytes.chunks(unit);
    let Some(first) = units.next() else { return (0, true) };
    let zero = is_zero(first);
    let more: usize = units.take_while(|chunk| is_zero(chunk) == zero).map(<[u8]>::len).sum();
    (first.len() + more, zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_counts() {
        for len in [0, 1, 127, 128, 129, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_of_whole_units() {
        let mut bytes = vec![0; 10_000];
        bytes[5000] = 1;
        assert_eq!(run(&bytes, 4096), (4096, true));
        assert_eq!(run(&bytes[4096..], 4096), (4096, false));
        assert_eq!(run(&bytes[8192..], 4096), (1808, true));
    }
}
