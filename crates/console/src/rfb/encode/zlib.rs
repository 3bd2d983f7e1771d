//! Zlib (rfbproto, 7.7.6): the pixels through one stream of zlib.

use super::{Converter, Effort, Encoder, Picture, Rect, raw};

impl Encoder {
    pub(super) fn zlib(
        &mut self,
        effort: Effort,
        converter: &Converter,
        picture: Picture<'_>,
        rect: Rect,
        out: &mut Vec<u8>,
    ) {
        self.bytes.clear();
        raw::encode(converter, picture, rect, &mut self.bytes);
        self.zlib.set_level(effort.compression);
        self.zlib.write_with_length(&self.bytes, out);
    }
}

impl super::Deflate {
    /// Compresses bytes behind the length of what that gives, in four bytes.
    pub(super) fn write_with_length(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.write(bytes, out);
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }
}
