//! Starts and stops one mirror in this process: opens its files, starts its threads, serves the device by NBD while this
//! node is primary.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferro_block::image::{ImageSpec, OpenMode, Secrets};
use ferro_block::nbd::{Export, Listener, Server, ServerHandle};
use ferro_mirror::{Admin, Engine};
use rustix::fs::{FlockOperation, flock};

use super::channel::{Key, Protection};
use super::config::{MirrorConfig, Place};
use super::device::Device;
use super::disk::Disks;
use super::link::{self, Dialing};
use super::owner::{Inbox, Owner, State};
use super::{Error, control};

/// How long an orderly stop waits for writes to become safe.
const PATIENCE: Duration = Duration::from_secs(30);
/// NBD connections at a time.
const CLIENTS: usize = 64;

/// A mirror that is up.
pub struct Mirror {
    place: Place,
    pub(crate) shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
}

/// What the command socket and the mirror share.
pub(crate) struct Shared {
    pub(crate) inbox: Inbox,
    pub(crate) config: MirrorConfig,
    pub(crate) nbd: PathBuf,
    /// Somebody asked the mirror to go down.
    pub(crate) down: AtomicBool,
    server: Mutex<Option<(Arc<Server>, ServerHandle)>>,
}

impl Shared {
    /// How many NBD clients use the device.
    pub(crate) fn clients(&self) -> usize {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map_or(0, |(server, _)| server.clients())
    }
}

impl Mirror {
    /// Starts the mirror.
    ///
    /// # Errors
    /// Files that can't be opened or don't fit the configuration, addresses that can't be listened on; it is up already.
    pub fn start(place: &Place) -> Result<Self, Error> {
        let config = MirrorConfig::load(place)?;
        let key = config.secret_file.as_deref().map(Key::read).transpose()?;
        let protection =
            Protection { key, insecure: config.insecure, timeout: Duration::from_millis(config.timeout_ms) };
        let path = place.metadata();
        let metadata = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::file("open the metadata", &path))?;
        if flock(&metadata, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Up(place.name.clone()));
        }
        let length = metadata.metadata().map_err(Error::file("read", &path))?.len();
        // No more than the bitmap of the largest device.
        let mut bytes = vec![0; usize::try_from(length.min(4 << 30)).unwrap_or(0)];
        metadata.read_exact_at(&mut bytes, 0).map_err(Error::file("read", &path))?;
        let engine =
            Engine::new(config.engine(entropy()), &bytes).map_err(|error| Error::Metadata(path.clone(), error))?;
        let storage = open_backing(&config)?;
        let (inbox, events) = Inbox::new();
        let disks = Disks::start(&storage, metadata, &inbox)?;
        let (roles, role_changes) = channel();
        let wanted = Arc::new(AtomicBool::new(false));
        let stopping = Arc::new(AtomicBool::new(false));
        let state = State::default();
        let owner = Owner {
            config: config.clone(),
            engine,
            disks,
            inbox: inbox.clone(),
            roles,
            wanted: Arc::clone(&wanted),
            state,
        };
        if config.node == 0 {
            link::listen(&config.listen, protection, inbox.clone())?;
        } else {
            let dialing = Dialing { wanted, stopping: Arc::clone(&stopping) };
            link::dial(config.peer.clone(), protection, dialing, inbox.clone())?;
        }
        super::thread("mirror", move || owner.run(&events))?;
        let size = config.size;
        let shared = Arc::new(Shared {
            inbox,
            config,
            nbd: place.nbd(),
            down: AtomicBool::new(false),
            server: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        super::thread("mirror-export", move || export(&serving, size, &role_changes))?;
        control::serve(&place.control(), Arc::clone(&shared))?;
        // The owner has reported once, so it knows whether a link is wanted.
        shared.inbox.report();
        Ok(Self { place: place.clone(), shared, stopping })
    }

    /// Whether somebody asked the mirror to go down.
    #[must_use]
    pub fn wants_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Stops in good order: writes are finished, the role is given up, the metadata say so.
    pub fn stop(self) {
        let inbox = &self.shared.inbox;
        // Refused if it isn't primary.
        inbox.admin(Admin::Secondary);
        wait(inbox, |report| !report.status.primary);
        self.stopping.store(true, Ordering::Relaxed);
        inbox.admin(Admin::Disconnect);
        wait(inbox, |report| report.status.settled);
        self.shared.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        // They may be gone.
        let _ = std::fs::remove_file(self.place.control());
    }
}

/// Waits until the mirror is as it should be; false if it takes too long.
pub(crate) fn wait(inbox: &Inbox, done: impl Fn(&super::owner::Report) -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match inbox.report() {
            Some(report) if !done(&report) => std::thread::sleep(Duration::from_millis(5)),
            report => return report.is_some(),
        }
    }
    false
}

/// A seed that no earlier start had.
fn entropy() -> u64 {
    let mut bytes = [0; 8];
    // Fails only on kernels from before 2014; time then has to do.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_ok() {
        return u64::from_ne_bytes(bytes);
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(1)
}

fn open_backing(config: &MirrorConfig) -> Result<Arc<dyn ferro_block::Storage>, Error> {
    let name = config.backing.to_string_lossy();
    let format = Some(config.format.parse()?);
    let image = ferro_block::image::open(&ImageSpec::from_name(&name, format)?, OpenMode::WRITE, &Secrets::default())?;
    if image.storage.size() < config.size {
        return Err(Error::Setting(format!(
            "{name} has {} bytes and the mirror needs {}: enlarge it ('ferro img resize')",
            image.storage.size(),
            config.size
        )));
    }
    Ok(Arc::clone(&image.storage))
}

/// Serves the device while this node is primary.
fn export(shared: &Shared, size: u64, roles: &Receiver<bool>) {
    let device: Arc<dyn ferro_block::Storage> = Arc::new(Device::new(shared.inbox.clone(), size));
    while let Ok(primary) = roles.recv() {
        if !primary {
            let old = shared.server.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(old);
            continue;
        }
        let export = Export {
            name: String::new(),
            description: "mirror".into(),
            storage: Arc::clone(&device),
            read_only: false,
        };
        let server = Server::new(vec![export], CLIENTS);
        match Listener::unix(&shared.nbd).and_then(|listener| server.start(listener)) {
            Ok(handle) => {
                *shared.server.lock().unwrap_or_else(PoisonError::into_inner) = Some((server, handle));
            }
            Err(error) => tracing::error!("the device can't be served: {error}"),
        }
    }
}
