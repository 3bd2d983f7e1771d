//! Every QMP command: its arguments and what it comes to. Checking the arguments and the schema are made from this table.

use serde_json::{Map, Value};

use crate::keys::Key;
use crate::monitor::{
    BlockThrottle, Command, ErrorClass, MemorySpace, NetworkLink, OperationError, Screenshot, SnapshotJob,
};

/// A JSON type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Integer,
    Truth,
    /// A list of keys, each an object with type and data.
    Keys,
    /// A list of strings.
    Texts,
}

impl Type {
    /// Its name in QEMU's messages and in the schema.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Truth => "boolean",
            Self::Keys | Self::Texts => "array",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Truth => value.is_boolean(),
            Self::Keys => value.is_array(),
            Self::Texts => value.as_array().is_some_and(|texts| texts.iter().all(Value::is_string)),
        }
    }
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg {
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) optional: bool,
}

const fn needs(name: &'static str, kind: Type) -> Arg {
    Arg { name, kind, optional: false }
}

const fn may(name: &'static str, kind: Type) -> Arg {
    Arg { name, kind, optional: true }
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    /// A command of the VM.
    Run(Command),
    /// A line in the other language, for a vCPU.
    Human(String, u32),
    /// The version.
    Version,
    /// The names of all commands.
    Commands,
    /// The schema.
    Schema,
    /// The end of the negotiation.
    Capabilities,
}

/// A command.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) args: &'static [Arg],
    build: fn(&Arguments) -> Result<Request, OperationError>,
}

/// Checked arguments.
struct Arguments(Map<String, Value>);

impl Arguments {
    fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    fn optional_text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Value::as_str).map(ToOwned::to_owned)
    }

    fn optional_texts(&self, name: &str) -> Option<Vec<String>> {
        let texts = self.0.get(name)?.as_array()?;
        Some(texts.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect())
    }

    fn truth(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number that isn't negative; zero if it was left away.
    fn number(&self, name: &str) -> Result<u64, OperationError> {
        match self.0.get(name) {
            None => Ok(0),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| OperationError::new(format!("Parameter '{name}' expects a non-negative number"))),
        }
    }

    /// The drive: `device` or, by its newer name, `id`.
    fn device(&self) -> Result<String, OperationError> {
        self.optional_text("device")
            .or_else(|| self.optional_text("id"))
            .or_else(|| self.optional_text("node-name"))
            .ok_or_else(|| OperationError::new("Need exactly one of 'device' and 'id'"))
    }

    fn vcpu(&self) -> Result<u32, OperationError> {
        u32::try_from(self.number("cpu-index")?).map_err(|_| OperationError::new("Invalid CPU index"))
    }
}

type Built = Result<Request, OperationError>;

fn run(command: Command) -> Built {
    Ok(Request::Run(command))
}

const fn query(name: &'static str, build: fn(&Arguments) -> Built) -> Entry {
    Entry { name, args: &[], build }
}

const DEVICE: Arg = may("device", Type::Text);
const ID: Arg = may("id", Type::Text);
const NODE: Arg = may("node-name", Type::Text);
const FILE: Arg = needs("filename", Type::Text);
const SNAPSHOT: &[Arg] =
    &[needs("job-id", Type::Text), needs("tag", Type::Text), may("vmstate", Type::Text), may("devices", Type::Texts)];

/// All of them.
pub(super) const COMMANDS: &[Entry] = &[
    Entry { name: "qmp_capabilities", args: &[may("enable", Type::Texts)], build: |_| Ok(Request::Capabilities) },
    query("query-version", |_| Ok(Request::Version)),
    query("query-commands", |_| Ok(Request::Commands)),
    query("query-qmp-schema", |_| Ok(Request::Schema)),
    Entry {
        name: "human-monitor-command",
        args: &[needs("command-line", Type::Text), may("cpu-index", Type::Integer)],
        build: |a| Ok(Request::Human(a.text("command-line"), a.vcpu()?)),
    },
    query("query-status", |_| run(Command::QueryStatus)),
    query("query-name", |_| run(Command::QueryName)),
    query("query-kvm", |_| run(Command::QueryKvm)),
    query("query-block", |_| run(Command::QueryBlock)),
    Entry {
        name: "query-blockstats",
        args: &[may("query-nodes", Type::Truth)],
        build: |_| run(Command::QueryBlockStats),
    },
    query("query-cpus-fast", |_| run(Command::QueryCpus)),
    query("query-pci", |_| run(Command::QueryPci)),
    query("query-vnc", |_| run(Command::QueryVnc)),
    query("query-chardev", |_| run(Command::QueryChardev)),
    query("query-mice", |_| run(Command::QueryMice)),
    query("query-balloon", |_| run(Command::QueryBalloon)),
    query("query-jobs", |_| run(Command::QueryJobs)),
    query("x-query-network", |_| run(Command::QueryNetwork)),
    query("x-query-snapshots", |_| run(Command::QuerySnapshots)),
    Entry {
        name: "job-dismiss",
        args: &[needs("id", Type::Text)],
        build: |a| run(Command::DismissJob { id: a.text("id") }),
    },
    query("stop", |_| run(Command::Stop)),
    query("cont", |_| run(Command::Continue)),
    query("quit", |_| run(Command::Quit)),
    query("system_reset", |_| run(Command::Reset)),
    query("system_powerdown", |_| run(Command::PowerDown)),
    query("inject-nmi", |_| run(Command::Nmi)),
    Entry { name: "send-key", args: &[needs("keys", Type::Keys), may("hold-time", Type::Integer)], build: send_key },
    Entry {
        name: "screendump",
        args: &[FILE, DEVICE, may("head", Type::Integer), may("format", Type::Text)],
        build: screendump,
    },
    Entry {
        name: "eject",
        args: &[DEVICE, ID, may("force", Type::Truth)],
        build: |a| run(Command::Eject { device: a.device()?, force: a.truth("force") }),
    },
    Entry {
        name: "blockdev-change-medium",
        args: &[
            DEVICE,
            ID,
            FILE,
            may("format", Type::Text),
            may("force", Type::Truth),
            may("read-only-mode", Type::Text),
        ],
        build: |a| {
            let (file, format) = (a.text("filename"), a.optional_text("format"));
            run(Command::ChangeMedium { device: a.device()?, file, format, force: a.truth("force") })
        },
    },
    Entry {
        name: "change-vnc-password",
        args: &[needs("password", Type::Text)],
        build: |a| run(Command::ChangeVncPassword { password: a.text("password") }),
    },
    Entry {
        name: "set_password",
        args: &[needs("protocol", Type::Text), needs("password", Type::Text), may("connected", Type::Text)],
        build: |a| match a.text("protocol").as_str() {
            "vnc" => run(Command::ChangeVncPassword { password: a.text("password") }),
            other => Err(OperationError::new(format!("there is no protocol '{other}', only vnc"))),
        },
    },
    Entry {
        name: "block_resize",
        args: &[DEVICE, NODE, needs("size", Type::Integer)],
        build: |a| run(Command::Resize { device: a.device()?, size: a.number("size")? }),
    },
    Entry {
        name: "block_set_io_throttle",
        args: &[
            DEVICE,
            ID,
            needs("bps", Type::Integer),
            needs("bps_rd", Type::Integer),
            needs("bps_wr", Type::Integer),
            needs("iops", Type::Integer),
            needs("iops_rd", Type::Integer),
            needs("iops_wr", Type::Integer),
        ],
        build: throttle,
    },
    Entry {
        name: "blockdev-snapshot-sync",
        args: &[DEVICE, NODE, needs("snapshot-file", Type::Text), may("format", Type::Text), may("mode", Type::Text)],
        build: |a| {
            let (file, format) = (a.text("snapshot-file"), a.optional_text("format"));
            let reuse = a.text("mode") == "existing";
            run(Command::SnapshotDrive { device: a.device()?, file, format, reuse })
        },
    },
    Entry {
        name: "block-commit",
        args: &[may("job-id", Type::Text), needs("device", Type::Text)],
        build: |a| {
            let device = a.text("device");
            run(Command::StartCommitJob { id: a.optional_text("job-id").unwrap_or_else(|| device.clone()), device })
        },
    },
    Entry {
        name: "balloon",
        args: &[needs("value", Type::Integer)],
        build: |a| run(Command::Balloon { bytes: a.number("value")? }),
    },
    Entry {
        name: "memsave",
        args: &[needs("val", Type::Integer), needs("size", Type::Integer), FILE, may("cpu-index", Type::Integer)],
        build: |a| save_memory(a, MemorySpace::Virtual { cpu: a.vcpu()? }),
    },
    Entry {
        name: "pmemsave",
        args: &[needs("val", Type::Integer), needs("size", Type::Integer), FILE],
        build: |a| save_memory(a, MemorySpace::Physical),
    },
    Entry {
        name: "dump-guest-memory",
        args: &[needs("paging", Type::Truth), needs("protocol", Type::Text), may("detach", Type::Truth)],
        build: |a| match a.text("protocol").strip_prefix("file:") {
            Some(path) => run(Command::DumpGuestMemory { path: path.to_owned() }),
            None => Err(OperationError::new("Parameter 'protocol' expects file:PATH")),
        },
    },
    Entry {
        name: "set_link",
        args: &[needs("name", Type::Text), needs("up", Type::Truth)],
        build: |a| run(Command::SetLink(NetworkLink { name: a.text("name"), up: a.truth("up") })),
    },
    Entry {
        name: "snapshot-save",
        args: SNAPSHOT,
        build: |a| snapshot_job(a, Command::SaveVm { tag: Some(a.text("tag")) }),
    },
    Entry { name: "snapshot-load", args: SNAPSHOT, build: |a| snapshot_job(a, Command::LoadVm { tag: a.text("tag") }) },
    Entry {
        name: "snapshot-delete",
        args: SNAPSHOT,
        build: |a| snapshot_job(a, Command::DeleteVm { tag: a.text("tag") }),
    },
];

fn send_key(a: &Arguments) -> Built {
    let given = a.0.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let keys: Option<Vec<_>> = given
        .iter()
        .map(|key| match (key["type"].as_str()?, &key["data"]) {
            ("qcode", Value::String(name)) => Key::named(name),
            ("number", number) => number.as_u64().filter(|code| (1..0x200).contains(code)).map(|code| Key(code as u16)),
            _ => None,
        })
        .collect();
    let keys = keys.filter(|keys| (1..=16).contains(&keys.len()));
    let keys = keys.ok_or_else(|| {
        OperationError::new("Parameter 'keys' expects one to 16 of {\"type\": \"qcode\", \"data\": NAME}")
    })?;
    let hold = match a.number("hold-time")? {
        0 => 100,
        hold => hold.min(60_000) as u32,
    };
    run(Command::SendKeys { keys, hold })
}

fn screendump(a: &Arguments) -> Built {
    let png = match a.optional_text("format").as_deref() {
        None | Some("ppm") => false,
        Some("png") => true,
        Some(_) => return Err(OperationError::new("Parameter 'format' does not accept value: png or ppm")),
    };
    run(Command::Screenshot(Screenshot { path: a.text("filename"), png }))
}

fn throttle(a: &Arguments) -> Built {
    let three = |names: [&str; 3]| -> Result<[u64; 3], OperationError> {
        Ok([a.number(names[0])?, a.number(names[1])?, a.number(names[2])?])
    };
    let limits = BlockThrottle {
        bytes: three(["bps", "bps_rd", "bps_wr"])?,
        operations: three(["iops", "iops_rd", "iops_wr"])?,
    };
    run(Command::Throttle { device: a.device()?, limits })
}

fn save_memory(a: &Arguments, space: MemorySpace) -> Built {
    // Addresses of a kernel's half are negative to some clients.
    let address = match a.0.get("val") {
        Some(value) => value.as_u64().or_else(|| value.as_i64().map(|value| value as u64)).unwrap_or(0),
        None => 0,
    };
    run(Command::SaveMemory { space, address, size: a.number("size")?, path: a.text("filename") })
}

fn snapshot_job(a: &Arguments, action: Command) -> Built {
    let (vmstate, devices) = (a.optional_text("vmstate"), a.optional_texts("devices"));
    let (id, tag, action) = (a.text("job-id"), a.text("tag"), Box::new(action));
    run(Command::StartSnapshotJob(SnapshotJob { id, tag, vmstate, devices, action }))
}

/// Checks a command and its arguments.
///
/// # Errors
/// As QEMU words them.
pub(super) fn interpret(name: &str, arguments: Map<String, Value>) -> Result<Request, OperationError> {
    let Some(entry) = COMMANDS.iter().find(|entry| entry.name == name) else {
        let description = format!("The command {name} has not been found");
        return Err(OperationError { class: ErrorClass::CommandNotFound, description });
    };
    for (given, value) in &arguments {
        let Some(arg) = entry.args.iter().find(|arg| arg.name == given) else {
            return Err(OperationError::new(format!("Parameter '{given}' is unexpected")));
        };
        if !arg.kind.fits(value) {
            let kind = arg.kind.name();
            return Err(OperationError::new(format!("Invalid parameter type for '{given}', expected: {kind}")));
        }
    }
    if let Some(missing) = entry.args.iter().find(|arg| !arg.optional && !arguments.contains_key(arg.name)) {
        return Err(OperationError::new(format!("Parameter '{}' is missing", missing.name)));
    }
    (entry.build)(&Arguments(arguments))
}
