//! Lane-wise integer arithmetic, comparison, logic and shifts.

use crate::sse::Vector;
use crate::sse::lanes::{Lane, map, zip};

macro_rules! lanewise {
    ($($name:ident: $t:ty, |$a:ident, $b:ident| $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Vector for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                zip::<$t>(a, b, |$a, $b| $e)
            }
        }
    )*};
}

lanewise! {
    Paddb: u8, |a, b| a.wrapping_add(b);
    Paddw: u16, |a, b| a.wrapping_add(b);
    Paddd: u32, |a, b| a.wrapping_add(b);
    Paddq: u64, |a, b| a.wrapping_add(b);
    Psubb: u8, |a, b| a.wrapping_sub(b);
    Psubw: u16, |a, b| a.wrapping_sub(b);
    Psubd: u32, |a, b| a.wrapping_sub(b);
    Psubq: u64, |a, b| a.wrapping_sub(b);
    Paddsb: i8, |a, b| a.saturating_add(b);
    Paddsw: i16, |a, b| a.saturating_add(b);
    Paddusb: u8, |a, b| a.saturating_add(b);
    Paddusw: u16, |a, b| a.saturating_add(b);
    Psubsb: i8, |a, b| a.saturating_sub(b);
    Psubsw: i16, |a, b| a.saturating_sub(b);
    Psubusb: u8, |a, b| a.saturating_sub(b);
    Psubusw: u16, |a, b| a.saturating_sub(b);
    Pcmpeqb: u8, |a, b| if a == b { !0 } else { 0 };
    Pcmpeqw: u16, |a, b| if a == b { !0 } else { 0 };
    Pcmpeqd: u32, |a, b| if a == b { !0 } else { 0 };
    Pcmpeqq: u64, |a, b| if a == b { !0 } else { 0 };
    Pcmpgtb: i8, |a, b| if a > b { -1 } else { 0 };
    Pcmpgtw: i16, |a, b| if a > b { -1 } else { 0 };
    Pcmpgtd: i32, |a, b| if a > b { -1 } else { 0 };
    Pcmpgtq: i64, |a, b| if a > b { -1 } else { 0 };
    Pmaxsb: i8, |a, b| a.max(b);
    Pmaxsw: i16, |a, b| a.max(b);
    Pmaxsd: i32, |a, b| a.max(b);
    Pmaxub: u8, |a, b| a.max(b);
    Pmaxuw: u16, |a, b| a.max(b);
    Pmaxud: u32, |a, b| a.max(b);
    Pminsb: i8, |a, b| a.min(b);
    Pminsw: i16, |a, b| a.min(b);
    Pminsd: i32, |a, b| a.min(b);
    Pminub: u8, |a, b| a.min(b);
    Pminuw: u16, |a, b| a.min(b);
    Pminud: u32, |a, b| a.min(b);
    Pavgb: u8, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    Pavgw: u16, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16;
    Pmullw: i16, |a, b| a.wrapping_mul(b);
    Pmulhw: i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16;
    Pmulhuw: u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16;
    Pmulhrsw: i16, |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16;
    Pmulld: i32, |a, b| a.wrapping_mul(b);
    Pmuludq: u64, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff);
    Pmuldq: i64, |a, b| i64::from(a as i32) * i64::from(b as i32);
    Pand: u64, |a, b| a & b;
    Pandn: u64, |a, b| !a & b;
    Por: u64, |a, b| a | b;
    Pxor: u64, |a, b| a ^ b;
    Psignb: i8, |a, b| if b == 0 { 0 } else if b < 0 { a.wrapping_neg() } else { a };
    Psignw: i16, |a, b| if b == 0 { 0 } else if b < 0 { a.wrapping_neg() } else { a };
    Psignd: i32, |a, b| if b == 0 { 0 } else if b < 0 { a.wrapping_neg() } else { a };
    Pabsb: i8, |_a, b| b.wrapping_abs();
    Pabsw: i16, |_a, b| b.wrapping_abs();
    Pabsd: i32, |_a, b| b.wrapping_abs();
}

macro_rules! shifts {
    ($($name:ident: $t:ty, |$a:ident, $count:ident| $e:expr, $over:expr;)*) => {$(
        pub(crate) struct $name;
        impl Vector for $name {
            #[inline(always)]
            fn apply(a: u128, b: u128, _imm: u8) -> u128 {
                let $count = b as u64;
                if $count >= u64::from(<$t>::BITS) {
                    map::<$t>(a, |$a| $over)
                } else {
                    let $count = $count as u32;
                    map::<$t>(a, |$a| $e)
                }
            }
        }
    )*};
}

shifts! {
    Psllw: u16, |a, n| a << n, { let _ = a; 0 };
    Pslld: u32, |a, n| a << n, { let _ = a; 0 };
    Psllq: u64, |a, n| a << n, { let _ = a; 0 };
    Psrlw: u16, |a, n| a >> n, { let _ = a; 0 };
    Psrld: u32, |a, n| a >> n, { let _ = a; 0 };
    Psrlq: u64, |a, n| a >> n, { let _ = a; 0 };
    Psraw: i16, |a, n| a >> n, a >> 15;
    Psrad: i32, |a, n| a >> n, a >> 31;
}

/// `PSLLDQ`
pub(crate) struct Pslldq;
impl Vector for Pslldq {
    #[inline(always)]
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        if b > 15 { 0 } else { a << (8 * b as u32) }
    }
}

/// `PSRLDQ`
pub(crate) struct Psrldq;
impl Vector for Psrldq {
    #[inline(always)]
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        if b > 15 { 0 } else { a >> (8 * b as u32) }
    }
}

/// `PMADDWD`
pub(crate) struct Pmaddwd;
impl Vector for Pmaddwd {
    #[inline(always)]
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        let (x, y) = (i16::split(a), i16::split(b));
        let mut sums = [0; 4];
        for (index, sum) in sums.iter_mut().enumerate() {
            let product = |at: usize| i32::from(x[at]) * i32::from(y[at]);
            *sum = product(2 * index).wrapping_add(product(2 * index + 1));
        }
        i32::join(sums)
    }
}

/// `PMADDUBSW`: unsigned bytes of the destination times signed bytes of the source.
pub(crate) struct Pmaddubsw;
impl Vector for Pmaddubsw {
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        let (x, y) = (u8::split(a), i8::split(b));
        let mut sums = [0; 8];
        for (index, sum) in sums.iter_mut().enumerate() {
            let product = |at: usize| i32::from(x[at]) * i32::from(y[at]);
            let wide = product(2 * index) + product(2 * index + 1);
            *sum = wide.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        }
        i16::join(sums)
    }
}

/// `PSADBW`
pub(crate) struct Psadbw;
impl Vector for Psadbw {
    #[inline(always)]
    fn apply(a: u128, b: u128, _imm: u8) -> u128 {
        let (x, y) = (u8::split(a), u8::split(b));
        let sum = |from: usize| (from..from + 8).map(|at| u64::from(x[at].abs_diff(y[at]))).sum();
        u64::join([sum(0), sum(8)])
    }
}

/// `MPSADBW`
pub(crate) struct Mpsadbw;
impl Vector for Mpsadbw {
    fn apply(a: u128, b: u128, imm: u8) -> u128 {
        let (x, y) = (u8::split(a), u8::split(b));
        let (first, second) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
        let mut sums = [0; 8];
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = (0..4).map(|at| u16::from(x[first + index + at].abs_diff(y[second + at]))).sum();
        }
        u16::join(sums)
    }
}

/// `PHMINPOSUW`
pub(crate) struct Phminposuw;
impl Vector for Phminposuw {
    fn apply(_a: u128, b: u128, _imm: u8) -> u128 {
        let lanes = u16::split(b);
        let (index, least) = lanes.iter().enumerate().min_by_key(|&(_, lane)| lane).unwrap_or((0, &0));
        (index as u128) << 16 | u128::from(*least)
    }
}
