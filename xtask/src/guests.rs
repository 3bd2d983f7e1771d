//! The guests that tests and benchmarks boot, built under `target/guests` from Debian's packages and from our own
//! sources in `guests/`. Each is built once; delete the folder to build anew.

mod debian;
mod initramfs;
mod programs;
mod root;

use std::path::PathBuf;

use crate::process::target;

/// Builds what is missing of all of them and returns the folder.
pub(crate) fn build_all() -> anyhow::Result<PathBuf> {
    let folder = build()?;
    root::build(&folder)?;
    Ok(folder)
}

/// Builds what is missing of the kernels with a busybox RAM disk and returns the folder.
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
