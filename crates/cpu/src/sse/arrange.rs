//! Packing, unpacking, shuffling, blending, widening and horizontal arithmetic on integers: whatever crosses lanes.

use crate::sse::Vector;
use crate::sse::lanes::Lane;

fn unpack<L: Lane>(a: u128, b: u128, high: bool) -> u128 {
    let (x, y) = (L::split(a), L::split(b));
    let (x, y) = (x.as_ref(), y.as_ref());
    let half = x.len() / 2;
    let from = if high { half } else { 0 };
    let mut result = L::split(0);
    for (index, pair) in result.as_mut().chunks_exact_mut(2).enumerate() {
        pair[0] = x[from + index];
        pair[1] = y[from + index];
    }
    L::join(result)
}

macro_rules! unpacks {
    ($($low:ident, $high:ident: $t:ty;)*) => {$(
        pub(crate) struct $low;
        impl Vector for $low {
            #[inline(always)]
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                unpack::<$t>(a, b, false)
            }
        }
        pub(crate) struct $high;
        impl Vector for $high {
            #[inline(always)]
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                unpack::<$t>(a, b, true)
            }
            fn apply_64(a: u64, b: u64, _imm: u8) -> u64 {
                (unpack::<$t>(u128::from(a), u128::from(b), false) >> 64) as u64
            }
        }
    )*};
}
unpacks! {
    Unpacklb, Unpackhb: u8;
    Unpacklw, Unpackhw: u16;
    Unpackld, Unpackhd: u32;
    Unpacklq, Unpackhq: u64;
}

macro_rules! packs {
    ($($name:ident: $from:ty => $to:ty;)*) => {$(
        pub(crate) struct $name;
        impl Vector for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                let (x, y) = (<$from>::split(a), <$from>::split(b));
                let mut result = <$to>::split(0);
                for (to, from) in result.iter_mut().zip(x.iter().chain(&y)) {
                    *to = (*from).clamp(<$from>::from(<$to>::MIN), <$from>::from(<$to>::MAX)) as $to;
                }
                <$to>::join(result)
            }
            fn apply_64(a: u64, b: u64, imm: u8) -> u64 {
                Self::apply(u128::from(b) << 64 | u128::from(a), 0, imm) as u64
            }
        }
    )*};
}
packs! {
    Packsswb: i16 => i8;
    Packuswb: i16 => u8;
    Packssdw: i32 => i16;
    Packusdw: i32 => u16;
}

macro_rules! widens {
    ($($name:ident: $from:ty => $to:ty;)*) => {$(
        pub(crate) struct $name;
        impl Vector for $name {
            fn apply(_a: u128, b: u128, _imm: u8) -> u128 {
                let lanes = <$from>::split(b);
                let mut result = <$to>::split(0);
                for (to, from) in result.iter_mut().zip(lanes) {
                    *to = <$to>::from(from);
                }
                <$to>::join(result)
            }
        }
    )*};
}
widens! {
    Pmovsxbw: i8 => i16;
    Pmovsxbd: i8 => i32;
    Pmovsxbq: i8 => i64;
    Pmovsxwd: i16 => i32;
    Pmovsxwq: i16 => i64;
    Pmovsxdq: i32 => i64;
    Pmovzxbw: u8 => u16;
    Pmovzxbd: u8 => u32;
    Pmovzxbq: u8 => u64;
    Pmovzxwd: u16 => u32;
    Pmovzxwq: u16 => u64;
    Pmovzxdq: u32 => u64;
}

macro_rules! horizontal {
    ($($name:ident: $t:ty, |$a:ident, $b:ident| $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Vector for $name {
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                let (x, y) = (<$t>::split(a), <$t>::split(b));
                let mut result = <$t>::split(0);
                let pairs = x.chunks_exact(2).chain(y.chunks_exact(2));
                for (to, pair) in result.iter_mut().zip(pairs) {
                    let ($a, $b) = (pair[0], pair[1]);
                    *to = $e;
                }
                <$t>::join(result)
            }
            fn apply_64(a: u64, b: u64, imm: u8) -> u64 {
                Self::apply(u128::from(b) << 64 | u128::from(a), 0, imm) as u64
            }
        }
    )*};
}
horizontal! {
    Phaddw: i16, |a, b| a.wrapping_add(b);
    Phaddd: i32, |a, b| a.wrapping_add(b);
    Phaddsw: i16, |a, b| a.saturating_add(b);
    Phsubw: i16, |a, b| a.wrapping_sub(b);
    Phsubd: i32, |a, b| a.wrapping_sub(b);
    Phsubsw: i16, |a, b| a.saturating_sub(b);
}

macro_rules! vectors {
    ($($(#[$doc:meta])* $name:ident: |$a:ident, $b:ident, $imm:ident| $e:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Vector for $name {
            #[inline(always)]
            fn apply($a: u128, $b: u128, $imm: u8) -> u128 {
                $e
            }
        }
    )*};
}

fn pick<const N: usize, T: std::marker::Copy>(lanes: [T; N], imm: u8) -> [T; 4] {
    [0, 2, 4, 6].map(|shift| lanes[usize::from(imm >> shift & 3)])
}

fn blend<L: Lane>(a: u128, b: u128, takes: impl Fn(usize) -> bool) -> u128 {
    let (mut x, y) = (L::split(a), L::split(b));
    for (index, (x, y)) in x.as_mut().iter_mut().zip(y.as_ref()).enumerate() {
        if takes(index) {
            *x = *y;
        }
    }
    L::join(x)
}

vectors! {
    Pshufd: |_a, b, imm| u32::join(pick(u32::split(b), imm));
    Pshuflw: |_a, b, imm| {
        let lanes = u16::split(b);
        let low = pick(lanes, imm);
        u16::join([low[0], low[1], low[2], low[3], lanes[4], lanes[5], lanes[6], lanes[7]])
    };
    Pshufhw: |_a, b, imm| {
        let lanes = u16::split(b);
        let high = pick([lanes[4], lanes[5], lanes[6], lanes[7]], imm);
        u16::join([lanes[0], lanes[1], lanes[2], lanes[3], high[0], high[1], high[2], high[3]])
    };
    /// MMX's `PSHUFW`.
    Pshufw: |_a, b, imm| {
        let low = pick(u16::split(b), imm);
        u16::join([low[0], low[1], low[2], low[3], 0, 0, 0, 0])
    };
    Shufps: |a, b, imm| {
        let (x, y) = (u32::split(a), u32::split(b));
        let at = |shift: u8| usize::from(imm >> shift & 3);
        u32::join([x[at(0)], x[at(2)], y[at(4)], y[at(6)]])
    };
    Shufpd: |a, b, imm| {
        let (x, y) = (u64::split(a), u64::split(b));
        u64::join([x[usize::from(imm & 1)], y[usize::from(imm >> 1 & 1)]])
    };
    Pblendw: |a, b, imm| blend::<u16>(a, b, |index| imm >> index & 1 != 0);
    Blendps: |a, b, imm| blend::<u32>(a, b, |index| imm >> index & 1 != 0);
    Blendpd: |a, b, imm| blend::<u64>(a, b, |index| imm >> index & 1 != 0);
    Movddup: |_a, b, _imm| u64::join([b as u64, b as u64]);
    Movshdup: |_a, b, _imm| {
        let lanes = u32::split(b);
        u32::join([lanes[1], lanes[1], lanes[3], lanes[3]])
    };
    Movsldup: |_a, b, _imm| {
        let lanes = u32::split(b);
        u32::join([lanes[0], lanes[0], lanes[2], lanes[2]])
    };
    /// `MOVHLPS`
    Movhlps: |a, b, _imm| (a >> 64 << 64) | b >> 64;
    /// `MOVLHPS`
    Movlhps: |a, b, _imm| b << 64 | (a & u128::from(u64::MAX));
    /// `MOVSS` between registers.
    Movss: |a, b, _imm| (a >> 32 << 32) | (b & 0xffff_ffff);
    /// `MOVSD` between registers.
    Movsd: |a, b, _imm| (a >> 64 << 64) | (b & u128::from(u64::MAX));
    /// `MOVQ` between XMM registers.
    Movq: |_a, b, _imm| b & u128::from(u64::MAX);
    /// Any plain move.
    Copy: |_a, b, _imm| b;
    /// `INSERTPS`; from memory the source's number in the immediate is taken for zero by `lower`.
    Insertps: |a, b, imm| {
        let mut lanes = u32::split(a);
        lanes[usize::from(imm >> 4 & 3)] = u32::split(b)[usize::from(imm >> 6)];
        for (index, lane) in lanes.iter_mut().enumerate() {
            if imm >> index & 1 != 0 {
                *lane = 0;
            }
        }
        u32::join(lanes)
    };
}

/// `PSHUFB`
pub(crate) struct Pshufb;
impl Vector for Pshufb {
    #[inline(always)]
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        let (lanes, order) = (u8::split(a), u8::split(b));
        u8::join(order.map(|at| if at & 0x80 != 0 { 0 } else { lanes[usize::from(at & 15)] }))
    }

    fn apply_64(a: u64, b: u64, _imm: u8) -> u64 {
        let lanes = a.to_le_bytes();
        u64::from_le_bytes(b.to_le_bytes().map(|at| if at & 0x80 != 0 { 0 } else { lanes[usize::from(at & 7)] }))
    }
}

/// `PALIGNR`
pub(crate) struct Palignr;
impl Vector for Palignr {
    #[inline(always)]
    fn apply(a: u128, b: u128, imm: u8) -> u128 {
        let bits = u32::from(imm) * 8;
        match bits {
            0 => b,
            8..=120 => b >> bits | a << (128 - bits),
            128..=248 => a >> (bits - 128),
            _ => 0,
        }
    }

    fn apply_64(a: u64, b: u64, imm: u8) -> u64 {
        let both = u128::from(a) << 64 | u128::from(b);
        if imm > 15 { 0 } else { (both >> (8 * u32::from(imm))) as u64 }
    }
}
