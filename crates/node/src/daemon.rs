//! `ferro node`: one daemon for a machine. It keeps segments, mirrors and resource groups as its infrastructure declares
//! them, with a pair's cluster or alone, and answers its API. A guard beside it ([`guard`]) starts it again when it dies, and
//! ends what it ran when nobody has the right to run it any more.

pub mod api;
pub mod assemble;
pub mod client;
pub mod config;
pub mod guard;

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ferro_cluster::Time;

use crate::cluster::{Beginning, Event, Handle, Owner, Permission, StartError};
use crate::infra::{Infra, InfraError};
use crate::mirror::{Command, Place, call};
use crate::segment::{self, Host};
use config::{NodeConfig, NodeConfigError};

/// Why a node's daemon can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its settings.
    #[error(transparent)]
    Config(#[from] NodeConfigError),
    /// Its infrastructure.
    #[error(transparent)]
    Infra(#[from] InfraError),
    /// The cluster.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A mirror.
    #[error(transparent)]
    Mirror(#[from] crate::mirror::Error),
    /// A mirror's process doesn't start.
    #[error("mirror {0}: {1}")]
    MirrorProcess(String, String),
    /// Segments.
    #[error(transparent)]
    Segment(#[from] segment::Error),
    /// A VM's card is described wrong: the VM, the card's number, and how.
    #[error("VM {0}, network card {1}: {2}")]
    Card(String, usize, String),
    /// An image.
    #[error("image {0}: {1}")]
    Image(String, String),
    /// A file.
    #[error("cannot {1} {path}: {2}", path = .0.display())]
    File(std::path::PathBuf, &'static str, #[source] std::io::Error),
    /// Another daemon.
    #[error("a node's daemon runs already with {path}: 'ferro status' asks it", path = .0.display())]
    Running(std::path::PathBuf),
    /// The API's token.
    #[error("the API over TCP: {0}")]
    Token(#[from] api::token::TokenError),
    /// The API.
    #[error("cannot serve the API: {0}")]
    Api(String),
}

/// A daemon that has begun.
pub struct Daemon {
    owner: Owner,
    events: Receiver<Event>,
    /// By which it is commanded.
    pub handle: Handle,
    _lock: std::fs::File,
}

impl Daemon {
    /// Brings up what belongs to this machine whatever its role (segments, mirrors as secondaries) and the cluster.
    /// `inherited`: until when an earlier daemon was allowed to run what runs.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn start(config: &NodeConfig, inherited: Option<Time>) -> Result<Self, NodeError> {
        for folder in [&config.state, &config.run] {
            std::fs::create_dir_all(folder).map_err(|error| NodeError::File(folder.clone(), "make", error))?;
        }
        let lock = lock(&config.run.join("node.lock"))?;
        let infra = kept_infra(config)?;
        end_undeclared(config, &infra);
        if !infra.segments.is_empty() || config.run.join("segments.json").exists() {
            segment::bring(&Host::open()?, &infra.declaration(), &config.run, false)?;
        }
        assemble::mirrors(config, &infra)?;
        let members = assemble::members(config, &infra)?;
        guard::remember_addresses(config, &infra)?;
        let (owner, handle, events) = Owner::start(Beginning {
            cluster: config.cluster.clone(),
            state: config.state.clone(),
            members,
            inherited,
        })?;
        if config.cluster.is_some() {
            keep_mirrors_up(config, &infra)?;
        }
        api::serve(config, &infra, &handle)?;
        Ok(Self { owner, events, handle, _lock: lock })
    }

    /// Works until [`Handle::shut_down`] has been carried out.
    pub fn run(self, permission: impl FnMut(Permission)) {
        self.owner.run(&self.events, permission);
    }
}

/// Keeps an infrastructure's text for this and later daemons, durably.
fn keep_infra(config: &NodeConfig, text: &str, folder: &Path) -> Result<(), NodeError> {
    let path = config.infra();
    let fail = |error| NodeError::File(path.clone(), "write", error);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&config.state)?;
        // Where file names in it begin.
        writeln!(file, "# folder {}", folder.display())?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(&config.state)?.sync_all()
    };
    write().map_err(fail)
}

fn kept_infra(config: &NodeConfig) -> Result<Infra, NodeError> {
    let path = config.infra();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Infra::default()),
        Err(error) => return Err(NodeError::File(path, "read", error)),
    };
    let folder = text.lines().next().and_then(|line| line.strip_prefix("# folder ")).unwrap_or("/");
    Ok(Infra::parse(&text, &path, Path::new(folder))?)
}

/// VMs and mirrors that are declared no more are shut down, VMs in good order and in the background.
fn end_undeclared(config: &NodeConfig, infra: &Infra) {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        files.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect::<Vec<_>>()
    };
    for name in names(&config.vms()).into_iter().filter(|name| !infra.vms.iter().any(|vm| vm.name == *name)) {
        let place = assemble::vm_place(config, &name);
        let work = move || crate::resource::vm::retire(&place);
        if let Err(error) = std::thread::Builder::new().name("retire".into()).spawn(work) {
            tracing::error!("VM {name}: {error}");
        }
    }
    for name in names(&config.mirrors()).into_iter().filter(|name| !infra.mirrors.iter().any(|m| m.name == *name)) {
        // Its files stay: they may be declared again.
        if let Ok(place) = Place::new(&config.mirrors(), &name) {
            let _ = call(&place, Command::Down { force: true });
        }
    }
}

fn lock(path: &Path) -> Result<std::fs::File, NodeError> {
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| NodeError::File(path.into(), "open", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::Running(path.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(NodeError::File(path.into(), "lock", error)),
    }
}

/// A mirror's process that ended is started again: it belongs to the machine, not to a role.
fn keep_mirrors_up(config: &NodeConfig, infra: &Infra) -> Result<(), NodeError> {
    let places: Vec<Place> =
        infra.mirrors.iter().map(|mirror| Place::new(&config.mirrors(), &mirror.name)).collect::<Result<_, _>>()?;
    if places.is_empty() {
        return Ok(());
    }
    let work = move || {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            for place in &places {
                if matches!(call(place, Command::Status), Err(crate::mirror::Error::NotUp(_)))
                    && let Err(error) = assemble::start_mirror(place)
                {
                    tracing::error!("mirror {}: {error}", place.name);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("mirror-keeper".into())
        .spawn(work)
        .map(drop)
        .map_err(|error| NodeError::Start(StartError::Thread(error)))
}
