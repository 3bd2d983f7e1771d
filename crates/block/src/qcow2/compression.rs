//! The contents of compressed clusters: raw deflate streams and Zstandard frames. Not where they are stored.

use std::cell::RefCell;

use libdeflater::{CompressionLvl, Compressor, Decompressor};

use super::options::Compression;

thread_local! {
    static DEFLATE: RefCell<Option<Compressor>> = const { RefCell::new(None) };
    static INFLATE: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static UNZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// libdeflate's level 3 makes about what zlib's level 6 makes, several times as fast.
const DEFLATE_LEVEL: i32 = 3;
/// Zstandard's own default, and QEMU's.
const ZSTD_LEVEL: i32 = 3;

/// The compressed form of `data`, or `None` if it isn't smaller by at least one byte.
pub(super) fn compress(method: Compression, data: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; data.len().checked_sub(1)?];
    let len = match method {
        Compression::Zlib => DEFLATE.with_borrow_mut(|compressor| {
            let level = CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default();
            compressor.get_or_insert_with(|| Compressor::new(level)).deflate_compress(data, &mut out).ok()
        }),
        Compression::Zstd => ZSTD.with_borrow_mut(|compressor| {
            if compressor.is_none() {
                *compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
            }
            compressor.as_mut()?.compress_to_buffer(data, &mut out[..]).ok()
        }),
    }?;
    out.truncate(len);
    Some(out)
}

/// Fills `out` from compressed data, which may be followed by anything.
///
/// # Errors
/// What is wrong with the data.
pub(super) fn decompress(method: Compression, data: &[u8], out: &mut [u8]) -> Result<(), String> {
    let len = match method {
        Compression::Zlib => INFLATE.with_borrow_mut(|decompressor| {
            let decompressor = decompressor.get_or_insert_with(Decompressor::new);
            decompressor.deflate_decompress(data, out).map_err(|error| error.to_string())
        }),
        Compression::Zstd => {
            let len = zstd::zstd_safe::find_frame_compressed_size(data).map_err(zstd::zstd_safe::get_error_name)?;
            UNZSTD.with_borrow_mut(|decompressor| {
                if decompressor.is_none() {
                    *decompressor = zstd::bulk::Decompressor::new().ok();
                }
                let decompressor = decompressor.as_mut().ok_or("no memory")?;
                decompressor.decompress_to_buffer(&data[..len], out).map_err(|error| error.to_string())
            })
        }
    }?;
    if len == out.len() { Ok(()) } else { Err(format!("expands to {len} bytes instead of {}", out.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_expands_with_anything_behind_it() {
        let data: Vec<u8> = (0..65536u32).map(|index| (index / 100) as u8).collect();
        for method in [Compression::Zlib, Compression::Zstd] {
            let mut packed = compress(method, &data).unwrap();
            assert!(packed.len() < data.len() / 4);
            packed.extend([0xa5; 300]);
            let mut out = vec![1; data.len()];
            decompress(method, &packed, &mut out).unwrap();
            assert_eq!(out, data);
        }
    }

    #[test]
    fn noise_is_left_alone() {
        let mut noise = vec![0u8; 4096];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(compress(Compression::Zlib, &noise), None);
        assert_eq!(compress(Compression::Zstd, &noise), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_expand_or_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            let mut out = vec![0; 4096];
            let _ = decompress(Compression::Zlib, &bytes, &mut out);
            let _ = decompress(Compression::Zstd, &bytes, &mut out);
        }
    }
}
