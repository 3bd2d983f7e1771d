//! Finding what has only moved up or down, as consoles and windows do when they scroll, so that a viewer can be told to copy
//! it from its own picture (CopyRect). Guesses by hashes, then compares every pixel; what is found is always true.

use std::cmp::Reverse;

use super::{Picture, Rect};

/// Columns that are looked at together: a window that scrolls is found within what stands still around it.
const STRIP: u16 = 64;
/// Pixels that a copy has to bring in place for it to be worth its header.
const WORTH: usize = 1024;
/// Rows of strips that have to agree on how far they moved.
const VOTES: usize = 16;
/// Copies of one update, at most.
const COPIES: usize = 256;

/// A part of a viewer's picture that is to be copied within it, straight up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Where it goes.
    pub(super) to: Rect,
    /// Where its uppermost row is.
    pub(super) from: u16,
}

/// A strip's rows in both pictures, by their hashes.
struct Strip {
    x: u16,
    width: u16,
    shown: Vec<u64>,
    now: Vec<u64>,
}

fn hash(row: &[u32]) -> u64 {
    let mix = |hash: u64, value: u64| (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    let pairs = row.chunks_exact(2);
    let last = pairs.remainder().iter().fold(0, |hash, pixel| mix(hash, u64::from(*pixel)));
    pairs.fold(last, |hash, pair| mix(hash, u64::from(pair[0]) << 32 | u64::from(pair[1])))
}

/// What of the viewer's picture `shown` can be copied within it to bring it nearer to `now`, looking at what is in
/// `bounds`. Both have the same size. The copies are to be done one after the other.
pub(super) fn find(shown: Picture<'_>, now: Picture<'_>, bounds: Rect) -> Vec<Copy> {
    let rows =
        |picture: Picture<'_>, rect| (0..usize::from(bounds.height)).map(|row| hash(picture.row(rect, row))).collect();
    let strips: Vec<Strip> = (0..bounds.width)
        .step_by(usize::from(STRIP))
        .map(|x| {
            let rect = Rect { x: bounds.x + x, width: STRIP.min(bounds.width - x), ..bounds };
            Strip { x: rect.x, width: rect.width, shown: rows(shown, rect), now: rows(now, rect) }
        })
        .collect();
    let Some(shift) = vote(&strips, usize::from(bounds.height)) else { return vec![] };
    let mut copies: Vec<Copy> = vec![];
    for strip in &strips {
        for (y, height) in runs(strip, shown, now, bounds, shift) {
            let to = Rect { x: strip.x, y, width: strip.width, height };
            // Strips side by side that moved alike are one copy.
            let left = copies
                .iter_mut()
                .find(|left| (left.to.y, left.to.height, left.to.x + left.to.width) == (to.y, to.height, to.x));
            match left {
                Some(left) => left.to.width += to.width,
                None => copies.push(Copy { to, from: (i32::from(y) + shift) as u16 }),
            }
        }
    }
    copies.truncate(COPIES);
    // What one copy overwrites, none after it reads.
    if shift > 0 {
        copies.sort_by_key(|copy| copy.to.y);
    } else {
        copies.sort_by_key(|copy| Reverse(copy.to.y));
    }
    copies
}

/// By how many rows what is there now was further down before, if enough rows say so.
fn vote(strips: &[Strip], height: usize) -> Option<i32> {
    let mut votes = vec![0_usize; 2 * height + 1];
    for strip in strips {
        let mut rows: Vec<(u64, usize)> = strip.shown.iter().copied().zip(0..).collect();
        rows.sort_unstable();
        for (y, hash) in strip.now.iter().enumerate().filter(|(y, hash)| strip.shown[*y] != **hash) {
            let first = rows.partition_point(|row| row.0 < *hash);
            let is = |at: usize| rows.get(at).is_some_and(|row| row.0 == *hash);
            // A row that is there more than once tells nothing.
            if is(first) && !is(first + 1) {
                votes[height + rows[first].1 - y] += 1;
            }
        }
    }
    let (at, count) = votes.iter().enumerate().max_by_key(|(_, count)| **count)?;
    (*count >= VOTES).then(|| at as i32 - height as i32)
}

/// The stretches of a strip's rows that are in the viewer's picture `shift` rows further down: y and height.
fn runs(strip: &Strip, shown: Picture<'_>, now: Picture<'_>, bounds: Rect, shift: i32) -> Vec<(u16, u16)> {
    let column = Rect { x: strip.x, y: 0, width: strip.width, height: 0 };
    let from = |y: u16| usize::try_from(i32::from(y) + shift).ok().filter(|from| *from < shown.height);
    let moved = |y: u16| from(y).is_some_and(|from| now.row(column, usize::from(y)) == shown.row(column, from));
    let bottom = bounds.y + bounds.height;
    let (mut runs, mut y) = (vec![], bounds.y);
    while y < bottom {
        let end = (y..bottom).find(|y| !moved(*y)).unwrap_or(bottom);
        let differs = |y: &u16| strip.shown[usize::from(y - bounds.y)] != strip.now[usize::from(y - bounds.y)];
        let wins = (y..end).filter(differs).count();
        if wins * usize::from(strip.width) >= WORTH {
            runs.push((y, end - y));
        }
        y = end + 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (200, 150);

    fn noise(seed: u32) -> Vec<u32> {
        let mut seed = seed | 1;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed & 0xff_ffff
        };
        (0..SIZE.0 * SIZE.1).map(|_| next()).collect()
    }

    fn picture(pixels: &[u32]) -> Picture<'_> {
        Picture { width: SIZE.0, height: SIZE.1, pixels }
    }

    fn whole() -> Rect {
        Rect { x: 0, y: 0, width: SIZE.0 as u16, height: SIZE.1 as u16 }
    }

    /// As a viewer copies.
    fn copy(pixels: &mut [u32], copies: &[Copy]) {
        for copy in copies {
            let before = pixels.to_vec();
            for row in 0..usize::from(copy.to.height) {
                let at = |y: u16| (usize::from(y) + row) * SIZE.0 + usize::from(copy.to.x);
                pixels[at(copy.to.y)..][..usize::from(copy.to.width)]
                    .copy_from_slice(&before[at(copy.from)..][..usize::from(copy.to.width)]);
            }
        }
    }

    #[test]
    fn what_scrolls_up_or_down_is_copied_as_one() {
        let before = noise(7);
        for (shift, from, to) in [(16, 16, 0), (-9, 0, 9)] {
            let mut now = noise(9);
            let rows = SIZE.1 - usize::abs_diff(from, to);
            now[to * SIZE.0..][..rows * SIZE.0].copy_from_slice(&before[from * SIZE.0..][..rows * SIZE.0]);
            let copies = find(picture(&before), picture(&now), whole());
            let moved = Rect { x: 0, y: to as u16, width: SIZE.0 as u16, height: rows as u16 };
            assert_eq!(copies, [Copy { to: moved, from: from as u16 }], "by {shift}");
            let mut viewer = before.clone();
            copy(&mut viewer, &copies);
            assert_eq!(viewer[to * SIZE.0..][..rows * SIZE.0], now[to * SIZE.0..][..rows * SIZE.0]);
        }
    }

    #[test]
    fn every_copy_brings_pixels_that_are_right_whatever_moved() {
        for seed in 1..60_usize {
            let before = noise(seed as u32);
            let mut now = before.clone();
            // Two windows move by different distances, and something is painted over.
            for (x, width, distance) in [(0, 90, seed % 40), (100, 64 + seed % 30, seed * 7 % 40)] {
                for y in 0..SIZE.1 - distance {
                    let (to, from) = if seed % 2 == 0 { (y, y + distance) } else { (y + distance, y) };
                    now[to * SIZE.0 + x..][..width].copy_from_slice(&before[from * SIZE.0 + x..][..width]);
                }
            }
            now[SIZE.0 * (seed * 3 % SIZE.1)..][..150].fill(0);
            let copies = find(picture(&before), picture(&now), whole());
            let mut viewer = before.clone();
            copy(&mut viewer, &copies);
            let wrong = |pixels: &[u32]| pixels.iter().zip(&now).filter(|(a, b)| a != b).count();
            let won = wrong(&before) - wrong(&viewer);
            assert!(copies.is_empty() || won >= WORTH, "seed {seed}: {won}");
            for Copy { to, .. } in copies {
                for row in 0..usize::from(to.height) {
                    assert_eq!(picture(&viewer).row(to, row), picture(&now).row(to, row), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn what_stands_still_or_repeats_itself_is_left_alone() {
        let before = noise(3);
        assert_eq!(find(picture(&before), picture(&before), whole()), []);
        assert_eq!(find(picture(&before), picture(&noise(4)), whole()), []);
        let stripes: Vec<u32> = (0..SIZE.0 * SIZE.1).map(|at| (at / SIZE.0 % 2) as u32).collect();
        let other: Vec<u32> = stripes.iter().map(|pixel| 1 - pixel).collect();
        assert_eq!(find(picture(&stripes), picture(&other), whole()), []);
    }
}
