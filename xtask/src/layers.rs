//! The table of layers: which of our crates each crate may use. Held against `cargo metadata`, so that an arrow can't
//! appear unnoticed.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process::{cargo, output};

/// Crate, and what it may use. Development dependencies are not held against it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ferro-guest", &[]),
    ("ferro-sys", &[]),
    ("ferro-cpu", &["ferro-guest"]),
    ("ferro-hypervisor", &["ferro-guest", "ferro-sys", "ferro-cpu"]),
    ("ferro-devices", &["ferro-guest"]),
    ("ferro-block", &["ferro-sys"]),
    ("ferro-console", &[]),
    ("ferro-net", &[]),
    ("ferro-mirror", &[]),
    ("ferro-cluster", &[]),
    (
        "ferro-machine",
        &[
            "ferro-guest",
            "ferro-sys",
            "ferro-cpu",
            "ferro-hypervisor",
            "ferro-devices",
            "ferro-block",
            "ferro-console",
            "ferro-net",
        ],
    ),
    ("ferro-node", &["ferro-console", "ferro-net", "ferro-block", "ferro-mirror", "ferro-cluster", "ferro-sys"]),
    // The command waits for signals by itself while it serves or mounts an image: hence `sys`.
    ("ferro-cli", &["ferro-console", "ferro-node", "ferro-machine", "ferro-block", "ferro-sys"]),
    // Not shipped.
    ("ferro-sim", &["ferro-mirror", "ferro-cluster"]),
    ("ferro-cpudiff", &["ferro-cpu", "ferro-guest"]),
    ("ferro-lab", &[]),
    ("xtask", &["ferro-lab", "ferro-sim", "ferro-net", "ferro-sys"]),
];

/// External crates that must stay out of the crates that do no I/O of their own.
const SANS_IO: &[&str] = &["ferro-cpu", "ferro-console", "ferro-net", "ferro-mirror", "ferro-cluster", "ferro-devices"];
const OS_CRATES: &[&str] = &["rustix", "libc", "nix", "tokio", "socket2", "kvm-ioctls", "io-uring"];

/// Fails with every dependency that the table doesn't allow.
pub(crate) fn check() -> anyhow::Result<()> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table of layers (xtask/src/layers.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = dependency["name"].as_str().unwrap_or_default();
            if used.starts_with("ferro-") && !may_use.contains(&used) {
                wrong.push(format!("{name} must not use {used}"));
            }
            if SANS_IO.contains(&name) && OS_CRATES.contains(&used) {
                wrong.push(format!("{name} does no I/O of its own and must not use {used}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("the layers are broken:\n  {}", wrong.join("\n  "));
    }
    println!("layers: {} packages, every arrow allowed", packages.len());
    Ok(())
}
