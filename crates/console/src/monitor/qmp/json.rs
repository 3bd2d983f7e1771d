//! Replies and events as QMP's JSON.

use serde_json::{Value, json};

use crate::monitor::{
    BlockInfo, BlockStats, CpuInfo, Event, NetworkInfo, OperationError, PciInfo, PciRegion, Reply, RunState,
    SnapshotInfo,
};

/// What a reply returns.
pub(super) fn reply(reply: &Reply) -> Value {
    match reply {
        Reply::Done => json!({}),
        Reply::Text(text) | Reply::Name(text) => json!({ "name": text }),
        Reply::Status(state) => {
            json!({ "running": *state == RunState::Running, "status": state })
        }
        Reply::Kvm { enabled, present } => json!({ "enabled": enabled, "present": present }),
        Reply::Block(drives) => drives.iter().map(block).collect(),
        Reply::BlockStats(drives) => drives.iter().map(block_stats).collect(),
        Reply::Network(cards) => cards.iter().map(network).collect(),
        Reply::Snapshots(found) => found.iter().map(snapshot).collect(),
        Reply::Cpus(cpus) => cpus.iter().map(cpu).collect(),
        Reply::Registers(registers) => registers.iter().map(|(name, value)| (name, json!(value))).collect(),
        Reply::Pci(functions) => json!([{ "bus": 0, "devices": functions.iter().map(pci).collect::<Vec<_>>() }]),
        Reply::Pages(pages) => {
            let page = |page: &crate::monitor::MappedPage| json!({ "start": page.start, "physical": page.physical, "size": page.size });
            pages.iter().map(page).collect()
        }
        Reply::Vnc(info) => json!(info),
        Reply::Chardev(devices) => json!(devices),
        Reply::Balloon(info) => json!(info),
        Reply::Captures(running) => {
            running.iter().map(|one| json!({ "path": one.wave.path, "bytes": one.bytes })).collect()
        }
        Reply::Mice(mice) => json!(mice),
        Reply::Jobs(jobs) => json!(jobs),
        Reply::Bytes(bytes) => json!(bytes),
        Reply::Instructions(found) => {
            found.iter().map(|(address, text)| json!({ "address": address, "text": text })).collect()
        }
        Reply::Value(value) => json!(value),
    }
}

/// Why it failed.
pub(super) fn error(error: &OperationError) -> Value {
    json!({ "class": error.class, "desc": error.description })
}

fn block(drive: &BlockInfo) -> Value {
    let mut value = json!({
        "device": drive.device,
        "qdev": drive.qdev,
        "type": "unknown",
        "removable": drive.removable,
        "locked": drive.locked,
    });
    if let Some(open) = drive.tray_open {
        value["tray_open"] = json!(open);
    }
    if let Some(image) = &drive.inserted {
        let ([bps, bps_rd, bps_wr], [iops, iops_rd, iops_wr]) = (drive.throttle.bytes, drive.throttle.operations);
        value["inserted"] = json!({
            "file": image.filename,
            "drv": image.format,
            "ro": drive.read_only,
            "backing_file": image.backing_filename,
            "backing_file_depth": u8::from(image.backing_filename.is_some()),
            "encrypted": false,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "cache": { "writeback": true, "direct": false, "no-flush": false },
            "bps": bps, "bps_rd": bps_rd, "bps_wr": bps_wr,
            "iops": iops, "iops_rd": iops_rd, "iops_wr": iops_wr,
            "image": image,
        });
        if let Some(inserted) = value["inserted"].as_object_mut().filter(|inserted| inserted["backing_file"].is_null())
        {
            inserted.remove("backing_file");
        }
    }
    value
}

fn block_stats(drive: &BlockStats) -> Value {
    let ([read, written], [reads, writes, flushes], [read_time, write_time, flush_time]) =
        (drive.bytes, drive.operations, drive.nanoseconds);
    json!({
        "device": drive.device,
        "stats": {
            "rd_bytes": read, "wr_bytes": written,
            "rd_operations": reads, "wr_operations": writes, "flush_operations": flushes,
            "rd_total_time_ns": read_time, "wr_total_time_ns": write_time, "flush_total_time_ns": flush_time,
        },
    })
}

fn network(card: &NetworkInfo) -> Value {
    json!({
        "name": card.name, "model": card.model, "main-mac": card.mac, "peer": card.peer, "link": card.link,
    })
}

fn snapshot(one: &SnapshotInfo) -> Value {
    json!({ "id": one.id, "name": one.tag, "vm-state-size": one.vm_size, "date": one.date, "vm-clock": one.vm_clock })
}

fn cpu(cpu: &CpuInfo) -> Value {
    json!({
        "cpu-index": cpu.index,
        "thread-id": cpu.thread.unwrap_or(0),
        "target": "x86_64",
        "qom-path": format!("/machine/cpu[{}]", cpu.index),
        "props": { "socket-id": cpu.index, "core-id": 0, "thread-id": 0 },
    })
}

fn pci(function: &PciInfo) -> Value {
    let (vendor, device) = function.id;
    json!({
        "bus": 0,
        "slot": function.slot,
        "function": function.function,
        "class_info": { "class": function.class },
        "id": { "vendor": vendor, "device": device },
        "irq": function.irq.unwrap_or(0),
        "qdev_id": "",
        "regions": function.regions.iter().map(region).collect::<Vec<_>>(),
    })
}

fn region(region: &PciRegion) -> Value {
    let address = region.address.map_or(json!(-1), |address| json!(address));
    if region.io {
        return json!({ "bar": region.bar, "type": "io", "address": address, "size": region.size });
    }
    json!({
        "bar": region.bar, "type": "memory", "address": address, "size": region.size,
        "prefetch": region.prefetch, "mem_type_64": region.wide,
    })
}

/// An event's name and data.
pub(super) fn event(event: &Event) -> (&'static str, Option<Value>) {
    let reason = |guest: bool, what: &str| if guest { format!("guest-{what}") } else { "host-qmp-quit".to_owned() };
    match event {
        Event::Stop => ("STOP", None),
        Event::Resume => ("RESUME", None),
        Event::Reset { guest } => {
            let reason = if *guest { "guest-reset" } else { "host-qmp-system-reset" };
            ("RESET", Some(json!({ "guest": guest, "reason": reason })))
        }
        Event::Shutdown { guest } => {
            ("SHUTDOWN", Some(json!({ "guest": guest, "reason": reason(*guest, "shutdown") })))
        }
        Event::PowerDown => ("POWERDOWN", None),
        Event::TrayMoved { device, open } => {
            ("DEVICE_TRAY_MOVED", Some(json!({ "device": device, "id": device, "tray-open": open })))
        }
        Event::BlockIoError { device, write, reason, stopped } => (
            "BLOCK_IO_ERROR",
            Some(json!({
                "device": device,
                "operation": if *write { "write" } else { "read" },
                "action": if *stopped { "stop" } else { "report" },
                "reason": reason,
            })),
        ),
        Event::JobStatus { id, status } => ("JOB_STATUS_CHANGE", Some(json!({ "id": id, "status": status }))),
        Event::BalloonChange { actual } => ("BALLOON_CHANGE", Some(json!({ "actual": actual }))),
        Event::Vnc { connected, client } => {
            (if *connected { "VNC_CONNECTED" } else { "VNC_DISCONNECTED" }, Some(json!({ "client": client })))
        }
        Event::GuestPanicked => ("GUEST_PANICKED", Some(json!({ "action": "pause" }))),
    }
}

/// The names of all events, for the schema.
pub(super) const EVENTS: &[&str] = &[
    "STOP",
    "RESUME",
    "RESET",
    "SHUTDOWN",
    "POWERDOWN",
    "DEVICE_TRAY_MOVED",
    "BLOCK_IO_ERROR",
    "JOB_STATUS_CHANGE",
    "BALLOON_CHANGE",
    "VNC_CONNECTED",
    "VNC_DISCONNECTED",
    "GUEST_PANICKED",
];
