//! Answers in words, laid out as QEMU's monitor lays them out, so that scripts that read it find what they look for.

use std::fmt::Write as _;

use super::arguments::Format;
use crate::monitor::{
    BlockInfo, BlockStats, BlockThrottle, CaptureInfo, CpuInfo, MappedPage, NetworkInfo, PciInfo, Reply, RunState,
    SnapshotInfo, VncInfo,
};

/// A reply as text; each line ends with a newline, and nothing to tell is no text.
pub(super) fn reply(reply: &Reply, cpu: u32, merged_pages: bool) -> String {
    let mut text = String::new();
    match reply {
        Reply::Done => {}
        Reply::Text(told) => text.push_str(told),
        Reply::Status(state) => line(&mut text, format_args!("VM status: {}", status(*state))),
        Reply::Name(name) => line(&mut text, format_args!("{name}")),
        Reply::Kvm { enabled, present } => {
            let told = if *enabled {
                "enabled"
            } else if *present {
                "disabled"
            } else {
                "not compiled"
            };
            line(&mut text, format_args!("kvm support: {told}"));
        }
        Reply::Block(drives) => drives.iter().for_each(|drive| block(&mut text, drive)),
        Reply::BlockStats(drives) => drives.iter().for_each(|drive| block_stats(&mut text, drive)),
        Reply::Network(cards) => cards.iter().for_each(|card| network(&mut text, card)),
        Reply::Snapshots(found) => snapshots(&mut text, found),
        Reply::Cpus(cpus) => cpus.iter().for_each(|each| cpu_line(&mut text, each, cpu)),
        Reply::Registers(registers) => show_registers(&mut text, registers),
        Reply::Pci(functions) => functions.iter().for_each(|function| pci(&mut text, function)),
        Reply::Pages(found) => pages(&mut text, found, merged_pages),
        Reply::Vnc(info) => vnc(&mut text, info),
        Reply::Chardev(devices) => {
            for device in devices {
                line(&mut text, format_args!("{}: filename={}", device.label, device.filename));
            }
        }
        Reply::Balloon(info) => line(&mut text, format_args!("balloon: actual={}", info.actual >> 20)),
        Reply::Captures(running) => {
            running.iter().enumerate().for_each(|(index, one)| capture(&mut text, index, one));
        }
        Reply::Mice(mice) => {
            for mouse in mice {
                let (current, absolute) = (if mouse.current { '*' } else { ' ' }, mouse.absolute);
                let kind = if absolute { " (absolute)" } else { "" };
                line(&mut text, format_args!("{current} Mouse #{}: {}{kind}", mouse.index, mouse.name));
            }
        }
        Reply::Jobs(jobs) => {
            for job in jobs {
                line(&mut text, format_args!("{}: {}, {}", job.id, job.kind, job.status));
            }
        }
        Reply::Bytes(bytes) => line(&mut text, format_args!("{bytes:02x?}")),
        Reply::Instructions(found) => {
            for (address, told) in found {
                line(&mut text, format_args!("{address:#010x}:  {told}"));
            }
        }
        Reply::Value(value) => line(&mut text, format_args!("{value:#x}")),
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{arguments}");
}

fn status(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Prelaunch => "paused (prelaunch)",
        RunState::Debug => "paused (debug)",
        RunState::IoError => "paused (io-error)",
        RunState::InternalError => "paused (internal-error)",
        RunState::RestoreVm => "paused (restore-vm)",
        RunState::SaveVm => "paused (save-vm)",
        RunState::Shutdown => "paused (shutdown)",
    }
}

fn block(text: &mut String, drive: &BlockInfo) {
    if !text.is_empty() {
        text.push('\n');
    }
    match &drive.inserted {
        Some(image) => {
            let read_only = if drive.read_only { ", read-only" } else { "" };
            line(text, format_args!("{}: {} ({}{read_only})", drive.device, image.filename, image.format));
        }
        None => line(text, format_args!("{}: [not inserted]", drive.device)),
    }
    line(text, format_args!("    Attached to:      {}", drive.qdev));
    if drive.removable {
        let (locked, open) = (if drive.locked { "locked" } else { "not locked" }, drive.tray_open);
        let tray = open.map_or("", |open| if open { ", tray open" } else { ", tray closed" });
        line(text, format_args!("    Removable device: {locked}{tray}"));
    }
    if let Some(below) = drive.inserted.as_ref().and_then(|image| image.backing_filename.as_ref()) {
        line(text, format_args!("    Backing file:     {below}"));
    }
    if drive.throttle != BlockThrottle::default() {
        let ([bps, bps_rd, bps_wr], [iops, iops_rd, iops_wr]) = (drive.throttle.bytes, drive.throttle.operations);
        line(
            text,
            format_args!(
                "    I/O throttling:   bps={bps} bps_rd={bps_rd} bps_wr={bps_wr} iops={iops} iops_rd={iops_rd} iops_wr={iops_wr}"
            ),
        );
    }
}

fn block_stats(text: &mut String, drive: &BlockStats) {
    let ([read, written], [reads, writes, flushes], [read_time, write_time, flush_time]) =
        (drive.bytes, drive.operations, drive.nanoseconds);
    line(
        text,
        format_args!(
            "{}: rd_bytes={read} wr_bytes={written} rd_operations={reads} wr_operations={writes} \
             flush_operations={flushes} wr_total_time_ns={write_time} rd_total_time_ns={read_time} \
             flush_total_time_ns={flush_time}",
            drive.device
        ),
    );
}

fn network(text: &mut String, card: &NetworkInfo) {
    let link = if card.link { "" } else { ",link=down" };
    line(text, format_args!("{}: index=0,type=nic,model={},macaddr={}{link}", card.name, card.model, card.mac));
    line(text, format_args!(" \\ {}", card.peer));
}

fn snapshots(text: &mut String, found: &[SnapshotInfo]) {
    if found.is_empty() {
        line(text, format_args!("There is no snapshot available."));
        return;
    }
    line(text, format_args!("List of snapshots present on all disks:"));
    let row = |text: &mut String, [id, tag, size, date, clock]: [&str; 5]| {
        line(text, format_args!("{id:<9} {tag:<16} {size:>8} {date:>20} {clock:>15}"));
    };
    row(text, ["ID", "TAG", "VM SIZE", "DATE", "VM CLOCK"]);
    for one in found {
        row(text, [&one.id, &one.tag, &bytes(one.vm_size), &one.date, &one.vm_clock]);
    }
}

/// A number of bytes in the unit that leaves three digits.
fn bytes(size: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit])
}

fn cpu_line(text: &mut String, each: &CpuInfo, selected: u32) {
    let mark = if each.index == selected { '*' } else { ' ' };
    let halted = if each.halted { " (halted)" } else { "" };
    let thread = each.thread.map_or(String::new(), |thread| format!(" thread_id={thread}"));
    line(text, format_args!("{mark} CPU #{}: pc={:#018x}{halted}{thread}", each.index, each.pc));
}

fn show_registers(text: &mut String, registers: &[(String, u64)]) {
    for row in registers.chunks(4) {
        let shown: Vec<_> =
            row.iter().map(|(name, value)| format!("{:<3}={value:016x}", name.to_uppercase())).collect();
        line(text, format_args!("{}", shown.join(" ")));
    }
}

fn pci(text: &mut String, function: &PciInfo) {
    let (vendor, device) = function.id;
    line(text, format_args!("  Bus  0, device {:3}, function {}:", function.slot, function.function));
    line(text, format_args!("    {}: PCI device {vendor:04x}:{device:04x}", class(function.class)));
    if let Some(irq) = function.irq {
        line(text, format_args!("      IRQ {irq}, pin A"));
    }
    for region in &function.regions {
        let place = region.address.map_or_else(
            || "0xffffffffffffffff [not mapped]".to_owned(),
            |start| format!("{start:#x} [{:#x}]", start + (region.size - 1)),
        );
        let kind = match (region.io, region.wide, region.prefetch) {
            (true, ..) => "I/O".to_owned(),
            (false, wide, prefetch) => {
                format!("{} bit {}memory", if wide { 64 } else { 32 }, if prefetch { "prefetchable " } else { "" })
            }
        };
        line(text, format_args!("      BAR{}: {kind} at {place}.", region.bar));
    }
}

/// A PCI class in words (PCI Code and ID Assignment Specification).
fn class(class: u16) -> String {
    let known = match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0401 => "Audio controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0680 => "Bridge",
        0x0780 => "Communication controller",
        other => return format!("Class {other:04x}"),
    };
    known.to_owned()
}

fn pages(text: &mut String, found: &[MappedPage], merged: bool) {
    for page in found {
        let flags = [
            if page.user { 'u' } else { '-' },
            'r',
            if page.writable { 'w' } else { '-' },
            if page.no_execute { '-' } else { 'x' },
        ];
        let flags: String = flags.iter().collect();
        if merged {
            let end = page.start.wrapping_add(page.size);
            line(text, format_args!("{:016x}-{end:016x} {:016x} {flags}", page.start, page.size));
        } else {
            line(text, format_args!("{:016x}: {:016x} {:>10} {flags}", page.start, page.physical, bytes(page.size)));
        }
    }
}

fn vnc(text: &mut String, info: &VncInfo) {
    if !info.enabled {
        line(text, format_args!("Server: disabled"));
        return;
    }
    let text_of = |value: &Option<String>| value.clone().unwrap_or_default();
    line(text, format_args!("Server:"));
    line(text, format_args!("     address: {}:{}", text_of(&info.host), text_of(&info.service)));
    line(text, format_args!("        auth: {}", text_of(&info.auth)));
    if info.clients.is_empty() {
        line(text, format_args!("Client: none"));
    }
    for client in &info.clients {
        line(text, format_args!("Client:"));
        line(text, format_args!("     address: {}:{}", client.host, client.service));
    }
}

fn capture(text: &mut String, index: usize, one: &CaptureInfo) {
    let wave = &one.wave;
    line(
        text,
        format_args!(
            "[{index}]: Capturing audio({},{},{}) to {}: {} bytes",
            wave.frequency, wave.bits, wave.channels, wave.path, one.bytes
        ),
    );
}

/// One number in a format's letter, with as many digits as its size in bytes has.
pub(super) fn number(value: u64, letter: char, size: u8) -> String {
    let shift = 64 - 8 * u32::from(size);
    let signed = (value << shift) as i64 >> shift;
    match letter {
        'x' => format!("{value:#0width$x}\n", width = 2 * usize::from(size) + 2),
        'o' => format!("{value:#o}\n"),
        'u' => format!("{value}\n"),
        'c' => format!("{}\n", character(value as u8)),
        _ => format!("{signed}\n"),
    }
}

fn character(byte: u8) -> String {
    if byte.is_ascii_graphic() || byte == b' ' { format!("'{}'", byte as char) } else { format!("'\\x{byte:02x}'") }
}

/// Memory as `x` shows it.
pub(super) fn memory(bytes: &[u8], format: Format, address: u64) -> String {
    let letter = format.letter.unwrap_or('x');
    let size = format.size.unwrap_or(if letter == 'c' { 1 } else { 4 });
    let width = usize::from(size);
    let row = if letter == 'c' { 8 } else { 16 };
    let mut text = String::new();
    for (index, chunk) in bytes.chunks(row).enumerate() {
        let numbers: Vec<_> = chunk
            .chunks(width)
            .map(|bytes| {
                let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                number(value, letter, size).trim_end().to_owned()
            })
            .collect();
        line(&mut text, format_args!("{:016x}: {}", address.wrapping_add((index * row) as u64), numbers.join(" ")));
    }
    if (bytes.len() as u64) < u64::from(format.count) * u64::from(size) {
        line(&mut text, format_args!("Cannot access memory"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_in_rows() {
        let format = Format { count: 5, letter: None, size: None };
        let bytes: Vec<_> = (0..20).collect();
        let expected = "0000000000001000: 0x03020100 0x07060504 0x0b0a0908 0x0f0e0d0c\n0000000000001010: 0x13121110\n";
        assert_eq!(memory(&bytes, format, 0x1000), expected);
        assert!(memory(&bytes[..4], format, 0).ends_with("Cannot access memory\n"));
        let letters = Format { count: 2, letter: Some('c'), size: None };
        assert_eq!(memory(b"A\0", letters, 0), "0000000000000000: 'A' '\\x00'\n");
    }

    #[test]
    fn numbers_have_their_sign_in_their_size() {
        assert_eq!(number(0xff, 'd', 1), "-1\n");
        assert_eq!(number(0xff, 'x', 2), "0x00ff\n");
        assert_eq!(number(u64::MAX, 'u', 8), "18446744073709551615\n");
    }

    #[test]
    fn drives_and_trays_read_as_in_qemu() {
        let drive = BlockInfo {
            device: "ide1-cd0".into(),
            qdev: "ide1-cd0".into(),
            removable: true,
            locked: false,
            tray_open: Some(true),
            inserted: None,
            read_only: true,
            throttle: BlockThrottle::default(),
        };
        let text = reply(&Reply::Block(vec![drive]), 0, false);
        assert!(text.contains("ide1-cd0: [not inserted]\n") && text.contains("not locked, tray open"), "{text}");
    }

    #[test]
    fn sizes_keep_three_digits() {
        let shown = [0, 999, 1000, 4096, 1 << 20, 150 << 20, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "0.98 KiB", "4.00 KiB", "1.00 MiB", "150 MiB", "16384 PiB"]);
    }
}
