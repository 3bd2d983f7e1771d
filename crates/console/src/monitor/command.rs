//! What can be asked of a running VM, in no language yet.

use crate::keys::Key;

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySpace {
    /// Linear addresses, through the page tables of this vCPU.
    Virtual {
        /// The vCPU's number.
        cpu: u32,
    },
    /// Guest-physical addresses.
    Physical,
}

/// What is wanted of a stretch of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Examination {
    /// So many bytes.
    Bytes(u64),
    /// So many instructions.
    Instructions(u32),
}

/// The buttons of the mouse that are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MouseButtons {
    /// Left.
    pub left: bool,
    /// Middle.
    pub middle: bool,
    /// Right.
    pub right: bool,
}

/// A recording of what the VM plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// The file to write.
    pub path: String,
    /// Samples a second.
    pub frequency: u32,
    /// Bits a sample: 8 or 16.
    pub bits: u16,
    /// 1 or 2.
    pub channels: u16,
}

/// A picture of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// The file to write.
    pub path: String,
    /// PNG instead of PPM.
    pub png: bool,
}

/// Limits of a disk; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockThrottle {
    /// Bytes a second: reads and writes together, reads, writes.
    pub bytes: [u64; 3],
    /// Operations a second, likewise.
    pub operations: [u64; 3],
}

/// Whether a network card's cable is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLink {
    /// The card's name.
    pub name: String,
    /// Plugged in.
    pub up: bool,
}

/// A snapshot operation that runs as a job and reports by events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotJob {
    /// The job's name.
    pub id: String,
    /// The snapshot's name.
    pub tag: String,
    /// The drive that holds the VM's state, where it isn't the first.
    pub vmstate: Option<String>,
    /// The drives, where it isn't all.
    pub devices: Option<Vec<String>>,
    /// What is done: [`Command::SaveVm`], [`Command::LoadVm`] or [`Command::DeleteVm`] of that tag.
    pub action: Box<Command>,
}

/// One request to a running VM. Names of devices are those that [`Command::QueryBlock`] and its like tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Whether it runs, or why not.
    QueryStatus,
    /// Its name.
    QueryName,
    /// Whether KVM executes it.
    QueryKvm,
    /// Its drives.
    QueryBlock,
    /// What its drives have done.
    QueryBlockStats,
    /// Its network cards.
    QueryNetwork,
    /// The snapshots that hold the whole VM.
    QuerySnapshots,
    /// Its vCPUs.
    QueryCpus,
    /// The registers of a vCPU.
    QueryRegisters {
        /// Its number.
        cpu: u32,
    },
    /// Its PCI functions.
    QueryPci,
    /// The state of the interrupt controllers, as text.
    QueryInterrupts,
    /// The memory map, as text.
    QueryMemoryMap,
    /// The pages that a vCPU's page tables map.
    QueryPages {
        /// Its number.
        cpu: u32,
    },
    /// The VNC server.
    QueryVnc,
    /// Its character devices.
    QueryChardev,
    /// The balloon.
    QueryBalloon,
    /// Recordings of sound that are running.
    QueryCaptures,
    /// What moves the guest's pointer.
    QueryMice,
    /// Jobs.
    QueryJobs,
    /// Forgets a job that has ended.
    DismissJob {
        /// Its name.
        id: String,
    },
    /// Stops the vCPUs.
    Stop,
    /// Lets them run.
    Continue,
    /// Ends the process.
    Quit,
    /// As by the reset button.
    Reset,
    /// As by the power button.
    PowerDown,
    /// A non-maskable interrupt.
    Nmi,
    /// Keys pressed together and released after a time.
    SendKeys {
        /// In the order in which they go down.
        keys: Vec<Key>,
        /// Milliseconds until they are released.
        hold: u32,
    },
    /// Moves the mouse.
    MouseMove {
        /// Right.
        dx: i32,
        /// Down.
        dy: i32,
        /// Wheel, towards the user.
        dz: i32,
    },
    /// Sets the mouse's buttons.
    MouseButtons(MouseButtons),
    /// Saves the whole VM into a snapshot; without a name one is made up.
    SaveVm {
        /// The snapshot's name.
        tag: Option<String>,
    },
    /// Goes back to a snapshot.
    LoadVm {
        /// Its name.
        tag: String,
    },
    /// Deletes a snapshot.
    DeleteVm {
        /// Its name.
        tag: String,
    },
    /// One of the three as a job.
    StartSnapshotJob(SnapshotJob),
    /// Records what is played.
    StartCapture(Wave),
    /// Ends a recording.
    StopCapture {
        /// Its number among those running.
        index: usize,
    },
    /// Takes a picture of the screen.
    Screenshot(Screenshot),
    /// Takes the medium out of a drive.
    Eject {
        /// The drive.
        device: String,
        /// Even if the guest has locked it.
        force: bool,
    },
    /// Puts a medium into a drive.
    ChangeMedium {
        /// The drive.
        device: String,
        /// The image.
        file: String,
        /// Its format, where it isn't to be found out.
        format: Option<String>,
        /// Even if the guest has locked the tray.
        force: bool,
    },
    /// Changes the password that VNC clients need.
    ChangeVncPassword {
        /// The new one.
        password: String,
    },
    /// Writes what a drive's overlay holds into the image below it.
    Commit {
        /// The drive; `all` for every one.
        device: String,
    },
    /// The same as a job.
    StartCommitJob {
        /// The job's name.
        id: String,
        /// The drive.
        device: String,
    },
    /// Gives a drive another size.
    Resize {
        /// The drive.
        device: String,
        /// Bytes.
        size: u64,
    },
    /// Limits a drive.
    Throttle {
        /// The drive.
        device: String,
        /// The limits.
        limits: BlockThrottle,
    },
    /// Puts a new overlay on a drive, into which it writes from now on.
    SnapshotDrive {
        /// The drive.
        device: String,
        /// The overlay's file.
        file: String,
        /// Its format.
        format: Option<String>,
        /// It is there already and only taken.
        reuse: bool,
    },
    /// How much memory the guest is to have.
    Balloon {
        /// Bytes.
        bytes: u64,
    },
    /// Reads memory.
    Examine {
        /// Which addresses.
        space: MemorySpace,
        /// The first one.
        address: u64,
        /// What is wanted there.
        what: Examination,
    },
    /// Reads a port.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// Writes a port.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// The value.
        value: u32,
    },
    /// Writes memory to a file.
    SaveMemory {
        /// Which addresses.
        space: MemorySpace,
        /// The first one.
        address: u64,
        /// Bytes.
        size: u64,
        /// The file.
        path: String,
    },
    /// Writes all memory and the vCPUs' registers to an ELF core file.
    DumpGuestMemory {
        /// The file.
        path: String,
    },
    /// Lets a debugger connect, or with `None` no more.
    GdbServer {
        /// `tcp:HOST:PORT`.
        address: Option<String>,
    },
    /// What is written to the log, as a filter; `None` for nothing.
    Log {
        /// The filter.
        items: Option<String>,
    },
    /// Where the log goes from now on.
    LogFile {
        /// The file.
        path: String,
    },
    /// Plugs a network card's cable in or out.
    SetLink(NetworkLink),
}
