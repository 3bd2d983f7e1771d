//! The guests that tests and benchmarks boot, built under `target/guests` from Debian's packages and from our own
//! sources in `guests/`. Each is built once; delete the folder to build anew.

mod debian;
mod initramfs;
mod programs;

use std::path::PathBuf;

use crate::process::target;

/// Builds what is missing and returns the folder.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let folder = target().join("guests");
    std::fs::create_dir_all(&folder)?;
    programs::build(&folder)?;
    for flavour in ["cloud-amd64", "amd64"] {
        let kernel = debian::kernel(&folder, flavour)?;
        initramfs::build(&folder, flavour, &kernel)?;
    }
    Ok(folder)
}
