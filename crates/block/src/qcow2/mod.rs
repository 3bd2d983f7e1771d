//! The qcow2 image format, versions 2 and 3, read and written: QEMU's docs/interop/qcow2.txt is its specification. An image
//! lies over any [`Storage`](crate::Storage); which files those are, how they are opened and locked, and the image jobs
//! (convert, commit, rebase…) are not this module's business.

mod bitmap;
mod bitmap_ops;
mod buffers;
mod check;
mod commit;
mod compression;
mod create;
mod entry;
mod gate;
mod geometry;
mod header;
mod header_write;
mod host;
mod image;
mod info;
mod measure;
mod open;
mod options;
mod read;
mod rebuild;
mod refcount;
mod repair;
mod report;
mod resize;
mod snapshot;
mod snapshot_ops;
mod state;
mod table_cache;
mod vmstate;
mod write;
mod zero;

pub use create::create;
pub use gate::Ticket;
pub use image::{Direct, Files, Qcow2};
pub use measure::{Measure, bitmap_bytes, measure};
pub use open::{Header, probe};
pub use options::{
    AmendOptions, Compat, Compression, CreateOptions, EncryptionOptions, KeySlotChange, OpenOptions, Preallocation,
    Repair,
};
pub use report::{BitmapInfo, CheckReport, EncryptionInfo, Info, Measurement, NewSnapshot, SnapshotInfo};

/// Reads every entry of an L2 table and writes it back; see [`crate::fuzzing`].
pub(crate) fn fuzz_l2_table(bytes: &[u8]) {
    let Some((&kind, table)) = bytes.split_first() else { return };
    let extended_l2 = kind & 1 != 0;
    let cluster_bits = if extended_l2 { 14 } else { 9 + u32::from(kind >> 1) % 13 };
    let geometry = geometry::Geometry { cluster_bits, extended_l2, version: 3, refcount_order: 4, data_file: false };
    let mut copy = table.to_vec();
    for index in 0..table.len() / geometry.entry_bytes() {
        let cluster = entry::Cluster::read(&geometry, table, index);
        if let Some(compressed) = cluster.compressed {
            assert!(compressed.host_clusters(&geometry).1 <= 3, "a compressed cluster touches few clusters");
        }
        cluster.write(&geometry, &mut copy, index);
        assert_eq!(entry::Cluster::read(&geometry, &copy, index), cluster);
    }
}

/// Reads a snapshot table; see [`crate::fuzzing`].
pub(crate) fn fuzz_snapshot_table(bytes: &[u8]) {
    let Some((&count, table)) = bytes.split_first() else { return };
    let geometry =
        geometry::Geometry { cluster_bits: 16, extended_l2: false, version: 3, refcount_order: 4, data_file: false };
    if let Ok(snapshots) = snapshot::parse(table, u32::from(count), &geometry, 1 << 30) {
        let again = snapshot::parse(&snapshot::to_bytes(&snapshots), u32::from(count), &geometry, 1 << 30);
        assert!(again.is_ok(), "what is written reads back");
    }
}
