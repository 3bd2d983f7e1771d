//! `ferro img info`, and how `create` describes what it makes.

use std::fmt::Write;

use clap::Args;
use ferro_block::image::{Format, FormatOptions, Image, KeyValues, OpenMode};
use ferro_block::qcow2::{Compat, Compression, SnapshotInfo};
use serde_json::{Map, Value, json};

use super::figures::{clock, date, human_size};
use super::source::{Naming, Output, print, print_json};

/// Flags of `info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    naming: Naming,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
    /// Describe all images of the backing chain
    #[arg(long)]
    backing_chain: bool,
    /// Look even if another process writes to the image: what is shown may be wrong
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    filename: String,
}

impl InfoArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mode = OpenMode {
            no_io: true,
            backing: self.backing_chain,
            force_share: self.force_share,
            for_check: true,
            ..OpenMode::READ
        };
        let image = self.naming.open(&self.filename, mode)?;
        let images: Vec<_> = image.chain().map(describe).collect::<anyhow::Result<_>>()?;
        match (self.output, self.backing_chain) {
            (Output::Json, true) => print_json(&Value::Array(images)),
            (Output::Json, false) => print_json(&images[0]),
            (Output::Human, _) => {
                let texts: Vec<_> = images.iter().map(human).collect();
                print(&texts.join("\n"))
            }
        }
    }
}

/// An image in the words of QEMU's `ImageInfo`.
fn describe(image: &Image) -> anyhow::Result<Value> {
    let mut info = Map::new();
    if let Some(qcow2) = &image.qcow2 {
        let snapshots = qcow2.snapshots();
        if !snapshots.is_empty() {
            info.insert("snapshots".into(), serde_json::to_value(&snapshots)?);
        }
    }
    if let Some(format) = &image.backing_format {
        info.insert("backing-filename-format".into(), json!(format));
    }
    info.insert("virtual-size".into(), json!(image.storage.size()));
    info.insert("filename".into(), json!(image.spec.name));
    if let Some(qcow2) = &image.qcow2 {
        info.insert("cluster-size".into(), json!(1u64 << qcow2.header().cluster_bits));
    }
    info.insert("format".into(), json!(image.format.name()));
    if let Some(host) = &image.host {
        info.insert("actual-size".into(), json!(host.allocated()?));
    }
    if image.encrypted {
        info.insert("encrypted".into(), json!(true));
    }
    if let Some(qcow2) = &image.qcow2 {
        info.insert("format-specific".into(), json!({"type": "qcow2", "data": serde_json::to_value(qcow2.info()?)?}));
    }
    if let Some(luks) = &image.luks {
        info.insert("format-specific".into(), json!({"type": "luks", "data": serde_json::to_value(luks.info())?}));
    }
    if let Some((name, found)) = &image.backing_name {
        info.insert("full-backing-filename".into(), json!(found));
        info.insert("backing-filename".into(), json!(name));
    }
    let dirty = image.qcow2.as_ref().is_some_and(|qcow2| qcow2.header().is_dirty);
    info.insert("dirty-flag".into(), json!(dirty));
    Ok(Value::Object(info))
}

fn human(info: &Value) -> String {
    let mut text = String::new();
    let number = |key: &str| info[key].as_u64();
    let string = |key: &str| info[key].as_str();
    // Writing to a string can't fail.
    let _ = writeln!(text, "image: {}", string("filename").unwrap_or_default());
    let _ = writeln!(text, "file format: {}", string("format").unwrap_or_default());
    let size = number("virtual-size").unwrap_or(0);
    let _ = writeln!(text, "virtual size: {} ({size} bytes)", human_size(size));
    match number("actual-size") {
        Some(size) => {
            let _ = writeln!(text, "disk size: {}", human_size(size));
        }
        None => text.push_str("disk size: unavailable\n"),
    }
    if info["encrypted"] == json!(true) {
        text.push_str("encrypted: yes\n");
    }
    if let Some(size) = number("cluster-size") {
        let _ = writeln!(text, "cluster_size: {size}");
    }
    if info["dirty-flag"] == json!(true) {
        text.push_str("cleanly shut down: no\n");
    }
    if let Some(name) = string("backing-filename") {
        let full = string("full-backing-filename").unwrap_or(name);
        let actual = if full == name { String::new() } else { format!(" (actual path: {full})") };
        let _ = writeln!(text, "backing file: {name}{actual}");
    }
    if let Some(format) = string("backing-filename-format") {
        let _ = writeln!(text, "backing file format: {format}");
    }
    if let Some(list) = info["snapshots"].as_array() {
        text.push_str("Snapshot list:\n");
        text.push_str(SNAPSHOT_HEAD);
        for snapshot in list {
            text.push_str(&snapshot_json_line(snapshot));
        }
    }
    if let Some(data) = info["format-specific"]["data"].as_object() {
        text.push_str("Format specific information:\n");
        for (key, value) in data {
            specific(&mut text, 1, &key.replace('-', " "), value);
        }
    }
    text
}

/// One property and what is in it, indented as deep as it lies.
fn specific(text: &mut String, depth: usize, key: &str, value: &Value) {
    let indent = "    ".repeat(depth);
    match value {
        Value::Object(map) => {
            let _ = writeln!(text, "{indent}{key}:");
            for (key, value) in map {
                specific(text, depth + 1, &key.replace('-', " "), value);
            }
        }
        Value::Array(list) => {
            let _ = writeln!(text, "{indent}{key}:");
            for (index, value) in list.iter().enumerate() {
                specific(text, depth + 1, &format!("[{index}]"), value);
            }
        }
        Value::String(string) => {
            let _ = writeln!(text, "{indent}{key}: {string}");
        }
        other => {
            let _ = writeln!(text, "{indent}{key}: {other}");
        }
    }
}

/// The head of a list of snapshots.
pub(super) const SNAPSHOT_HEAD: &str =
    "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n";

fn snapshot_json_line(snapshot: &Value) -> String {
    let text = |key: &str| snapshot[key].as_str().unwrap_or_default();
    let number = |key: &str| snapshot[key].as_u64().unwrap_or(0);
    line(
        text("id"),
        text("name"),
        number("vm-state-size"),
        number("date-sec") as u32,
        (number("vm-clock-sec"), number("vm-clock-nsec") as u32),
        snapshot["icount"].as_u64(),
    )
}

/// A snapshot as a line of a list.
pub(super) fn snapshot_line(snapshot: &SnapshotInfo) -> String {
    let clock = (snapshot.vm_clock_sec, snapshot.vm_clock_nsec);
    line(&snapshot.id, &snapshot.name, snapshot.vm_state_size, snapshot.date_sec, clock, snapshot.icount)
}

fn line(id: &str, name: &str, vm_size: u64, seconds: u32, time: (u64, u32), icount: Option<u64>) -> String {
    let icount = icount.map_or_else(String::new, |icount| icount.to_string());
    let (size, date, clock) = (human_size(vm_size), date(seconds), clock(time.0, time.1));
    format!("{id:<9} {name:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}\n")
}

/// What `create` is about to make, as qemu-img says it.
pub(super) fn creation(format: Format, size: u64, parsed: &FormatOptions, given: &KeyValues) -> String {
    let mut words = vec![format!("fmt={format}")];
    let mut given_as = |names: &[&str]| {
        words.extend(names.iter().filter_map(|name| given.get(name).map(|value| format!("{name}={value}"))));
    };
    match parsed {
        FormatOptions::Qcow2(options, _) => {
            given_as(&[
                "encryption",
                "encrypt.format",
                "encrypt.key-secret",
                "encrypt.cipher-alg",
                "encrypt.cipher-mode",
                "encrypt.ivgen-alg",
                "encrypt.ivgen-hash-alg",
                "encrypt.hash-alg",
                "encrypt.iter-time",
            ]);
            let on = |on: bool| if on { "on" } else { "off" };
            words.push(format!("cluster_size={}", 1u64 << options.cluster_bits));
            words.push(format!("extended_l2={}", on(options.extended_l2)));
            if let Some(preallocation) = given.get("preallocation") {
                words.push(format!("preallocation={preallocation}"));
            }
            let compression = if options.compression == Compression::Zstd { "zstd" } else { "zlib" };
            words.push(format!("compression_type={compression}"));
            words.push(format!("size={size}"));
            if options.compat == Compat::V2 {
                words.push("compat=0.10".into());
            }
            let mut given_as = |names: &[&str]| {
                words.extend(names.iter().filter_map(|name| given.get(name).map(|value| format!("{name}={value}"))));
            };
            given_as(&["backing_file", "backing_fmt", "data_file", "data_file_raw"]);
            words.push(format!("lazy_refcounts={}", on(options.lazy_refcounts)));
            words.push(format!("refcount_bits={}", options.refcount_bits));
        }
        FormatOptions::Raw(_) => {
            words.push(format!("size={size}"));
            words.extend(given.get("preallocation").map(|value| format!("preallocation={value}")));
        }
        FormatOptions::Luks(..) => {
            words.push(format!("size={size}"));
            let names =
                ["key-secret", "cipher-alg", "cipher-mode", "ivgen-alg", "hash-alg", "iter-time", "preallocation"];
            words.extend(names.iter().filter_map(|name| given.get(name).map(|value| format!("{name}={value}"))));
        }
    }
    words.join(" ")
}
