//! Registers as arrays of lanes.

/// A number that registers hold several of.
pub(crate) trait Lane: Copy + Default {
    /// All lanes of 128 bits, as an array.
    type All: AsRef<[Self]> + AsMut<[Self]> + Copy;
    fn split(value: u128) -> Self::All;
    fn join(lanes: Self::All) -> u128;
}

macro_rules! lane {
    ($($t:ty, $n:literal);*) => {$(
        impl Lane for $t {
            type All = [$t; $n];

            #[inline(always)]
            fn split(value: u128) -> [$t; $n] {
                let bytes = value.to_le_bytes();
                let mut lanes = [<$t>::default(); $n];
                for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(16 / $n)) {
                    let mut word = [0; 16 / $n];
                    word.copy_from_slice(chunk);
                    *lane = <$t>::from_le_bytes(word);
                }
                lanes
            }

            #[inline(always)]
            fn join(lanes: [$t; $n]) -> u128 {
                let mut bytes = [0; 16];
                for (lane, chunk) in lanes.iter().zip(bytes.chunks_exact_mut(16 / $n)) {
                    chunk.copy_from_slice(&lane.to_le_bytes());
                }
                u128::from_le_bytes(bytes)
            }
        }
    )*};
}
lane!(u8, 16; i8, 16; u16, 8; i16, 8; u32, 4; i32, 4; u64, 2; i64, 2; f32, 4; f64, 2);

/// Combines two registers lane by lane.
#[inline(always)]
pub(crate) fn zip<L: Lane>(a: u128, b: u128, f: impl Fn(L, L) -> L) -> u128 {
    let (mut x, y) = (L::split(a), L::split(b));
    for (x, y) in x.as_mut().iter_mut().zip(y.as_ref()) {
        *x = f(*x, *y);
    }
    L::join(x)
}

/// Changes each lane.
#[inline(always)]
pub(crate) fn map<L: Lane>(a: u128, f: impl Fn(L) -> L) -> u128 {
    let mut x = L::split(a);
    for x in x.as_mut() {
        *x = f(*x);
    }
    L::join(x)
}
