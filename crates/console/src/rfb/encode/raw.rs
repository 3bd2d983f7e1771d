//! Raw (RFC 6143, 7.7.1): the pixels.

use super::{Converter, Picture, Rect};
use crate::rfb::pixel::Form;

pub(super) fn encode(converter: &Converter, picture: Picture<'_>, rect: Rect, out: &mut Vec<u8>) {
    for row in 0..usize::from(rect.height) {
        converter.put(Form::Full, picture.row(rect, row), out);
    }
}
