//! What a VM answers, in no language yet. The fields carry QMP's names, so that its JSON is these structures as they are.

use serde::Serialize;

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{description}")]
pub struct OperationError {
    /// What kind of failure, for programs.
    pub class: ErrorClass,
    /// For people: what failed, and what to do.
    pub description: String,
}

impl OperationError {
    /// A failure of no special kind.
    pub fn new(description: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, description: description.into() }
    }

    /// There is no device of this name.
    pub fn no_device(name: &str) -> Self {
        Self { class: ErrorClass::DeviceNotFound, description: format!("Device '{name}' not found") }
    }
}

/// QMP's kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ErrorClass {
    /// No special kind.
    GenericError,
    /// No such command.
    CommandNotFound,
    /// The device isn't in a state for this.
    DeviceNotActive,
    /// No such device.
    DeviceNotFound,
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It runs.
    Running,
    /// Stopped by command.
    Paused,
    /// Not begun yet.
    Prelaunch,
    /// Stopped by a debugger.
    Debug,
    /// A disk failed.
    IoError,
    /// The accelerator can't go on.
    InternalError,
    /// A snapshot is being loaded.
    RestoreVm,
    /// A snapshot is being saved.
    SaveVm,
    /// It has ended.
    Shutdown,
}

/// The image in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The file.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// The size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The image below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its name.
    pub device: String,
    /// The device's path for programs.
    pub qdev: String,
    /// The medium can be changed.
    pub removable: bool,
    /// The guest has locked the tray.
    pub locked: bool,
    /// Of a drive with a tray: whether that is open.
    pub tray_open: Option<bool>,
    /// The image, if there is one in it.
    pub inserted: Option<ImageInfo>,
    /// It can't be written.
    pub read_only: bool,
    /// Its limits.
    pub throttle: super::BlockThrottle,
}

/// What a drive has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockStats {
    /// Its name.
    pub device: String,
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Reads, writes and flushes.
    pub operations: [u64; 3],
    /// Nanoseconds spent on each of these.
    pub nanoseconds: [u64; 3],
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: String,
    /// Its address.
    pub mac: String,
    /// What it is plugged into, as text.
    pub peer: String,
    /// Whether it is plugged in.
    pub link: bool,
}

/// A snapshot of the whole VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its number in the image.
    pub id: String,
    /// Its name.
    pub tag: String,
    /// Bytes of saved state.
    pub vm_size: u64,
    /// When it was made, as local time `YYYY-MM-DD HH:MM:SS`.
    pub date: String,
    /// The VM's clock, as `HHHH:MM:SS.mmm`.
    pub vm_clock: String,
}

/// A vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuInfo {
    /// Its number.
    pub index: u32,
    /// The host's thread, where known.
    pub thread: Option<u32>,
    /// Whether it waits for an interrupt.
    pub halted: bool,
    /// Its instruction pointer.
    pub pc: u64,
}

/// A window of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciRegion {
    /// The number of its base address register.
    pub bar: u8,
    /// Ports, rather than memory.
    pub io: bool,
    /// Bytes.
    pub size: u64,
    /// Where it is, if it is switched on.
    pub address: Option<u64>,
    /// 64-bit memory.
    pub wide: bool,
    /// Prefetchable memory.
    pub prefetch: bool,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciInfo {
    /// Its slot.
    pub slot: u8,
    /// Its function number.
    pub function: u8,
    /// Class and subclass.
    pub class: u16,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Its interrupt line, if it has a pin.
    pub irq: Option<u8>,
    /// Its windows.
    pub regions: Vec<PciRegion>,
}

/// A stretch of mapped linear memory with the same rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedPage {
    /// Its first linear address.
    pub start: u64,
    /// Where it lies in guest-physical memory.
    pub physical: u64,
    /// Bytes.
    pub size: u64,
    /// Reachable from ring 3.
    pub user: bool,
    /// Writable.
    pub writable: bool,
    /// Not executable.
    pub no_execute: bool,
}

/// A client of the VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VncClient {
    /// Its address.
    pub host: String,
    /// Its port.
    pub service: String,
    /// `ipv4`, `ipv6` or `unix`.
    pub family: String,
}

/// The VNC server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VncInfo {
    /// Whether there is one.
    pub enabled: bool,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How clients prove themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// Who is connected.
    pub clients: Vec<VncClient>,
}

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChardevInfo {
    /// Its name.
    pub label: String,
    /// Where it leads.
    pub filename: String,
    /// Whether something is connected.
    pub frontend_open: bool,
}

/// The balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BalloonInfo {
    /// Bytes that the guest has now.
    pub actual: u64,
}

/// Something that moves the guest's pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MouseInfo {
    /// What it is.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether movements go to it now.
    pub current: bool,
    /// Whether it is put at positions rather than moved by distances.
    pub absolute: bool,
}

/// A recording that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureInfo {
    /// What is recorded, and how.
    pub wave: super::Wave,
    /// Bytes written so far.
    pub bytes: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// What kind: `snapshot-save` and its like.
    #[serde(rename = "type")]
    pub kind: String,
    /// `running`, `concluded`…
    pub status: String,
    /// How much is done.
    pub current_progress: u64,
    /// Of how much.
    pub total_progress: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// Done; there is nothing to tell.
    Done,
    /// Done; something to tell people.
    Text(String),
    /// To [`super::Command::QueryStatus`].
    Status(RunState),
    /// To [`super::Command::QueryName`].
    Name(String),
    /// To [`super::Command::QueryKvm`].
    Kvm {
        /// KVM executes this VM.
        enabled: bool,
        /// The host has KVM.
        present: bool,
    },
    /// To [`super::Command::QueryBlock`].
    Block(Vec<BlockInfo>),
    /// To [`super::Command::QueryBlockStats`].
    BlockStats(Vec<BlockStats>),
    /// To [`super::Command::QueryNetwork`].
    Network(Vec<NetworkInfo>),
    /// To [`super::Command::QuerySnapshots`].
    Snapshots(Vec<SnapshotInfo>),
    /// To [`super::Command::QueryCpus`].
    Cpus(Vec<CpuInfo>),
    /// To [`super::Command::QueryRegisters`]: names as gdb spells them, in the order to show them.
    Registers(Vec<(String, u64)>),
    /// To [`super::Command::QueryPci`].
    Pci(Vec<PciInfo>),
    /// To [`super::Command::QueryPages`].
    Pages(Vec<MappedPage>),
    /// To [`super::Command::QueryVnc`].
    Vnc(VncInfo),
    /// To [`super::Command::QueryChardev`].
    Chardev(Vec<ChardevInfo>),
    /// To [`super::Command::QueryBalloon`].
    Balloon(BalloonInfo),
    /// To [`super::Command::QueryCaptures`].
    Captures(Vec<CaptureInfo>),
    /// To [`super::Command::QueryMice`].
    Mice(Vec<MouseInfo>),
    /// To [`super::Command::QueryJobs`].
    Jobs(Vec<JobInfo>),
    /// To [`super::Command::Examine`]: the bytes that could be read.
    Bytes(Vec<u8>),
    /// To [`super::Command::Examine`]: address and text of each instruction.
    Instructions(Vec<(u64, String)>),
    /// To [`super::Command::PortRead`].
    Value(u32),
}

/// Something that happened to the VM, which programs want to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The vCPUs were stopped.
    Stop,
    /// They go on.
    Resume,
    /// The VM was reset; by its guest or from outside.
    Reset {
        /// By its guest.
        guest: bool,
    },
    /// The VM ends; by its guest or from outside.
    Shutdown {
        /// By its guest.
        guest: bool,
    },
    /// The power button was pressed.
    PowerDown,
    /// A tray was opened or closed.
    TrayMoved {
        /// The drive.
        device: String,
        /// It is open now.
        open: bool,
    },
    /// A drive failed a request of the guest.
    BlockIoError {
        /// The drive.
        device: String,
        /// It was a write.
        write: bool,
        /// Why.
        reason: String,
        /// The VM was stopped for it.
        stopped: bool,
    },
    /// A job entered another state.
    JobStatus {
        /// The job.
        id: String,
        /// The state.
        status: String,
    },
    /// The guest has another amount of memory.
    BalloonChange {
        /// Bytes.
        actual: u64,
    },
    /// A VNC client came or went.
    Vnc {
        /// It is there now.
        connected: bool,
        /// Its address and port.
        client: VncClient,
    },
    /// The guest panicked.
    GuestPanicked,
}
