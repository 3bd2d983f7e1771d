//! `ferro img serve`.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::Storage;
use ferro_block::image::{Cache, OpenMode};
use ferro_block::nbd::{Export, Listener, Server};
use ferro_block::throttle::{Rate, Throttle, ThrottleOptions};
use ferro_sys::signals::Termination;

use super::figures;
use super::source::{Naming, cache, print};

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    naming: Naming,
    /// Listen on this socket file, which only its owner may use
    #[arg(long, value_name = "PATH", required_unless_present = "listen", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Listen on this address
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Take clients from other machines although nothing authenticates them
    #[arg(long)]
    insecure: bool,
    /// The export's name
    #[arg(long, value_name = "NAME", default_value = "")]
    export: String,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_clients: usize,
    /// Requests a second at most
    #[arg(long, value_name = "N")]
    iops: Option<u64>,
    /// Bytes a second at most
    #[arg(long, value_name = "SIZE", value_parser = figures::size)]
    bps: Option<u64>,
    /// How the image is opened
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// Serve even if another process writes to the image (with --read-only)
    #[arg(short = 'U', long, requires = "read_only")]
    force_share: bool,
    /// The image
    filename: String,
}

/// A disk that moves at most so many bytes a second.
pub(super) fn limited(disk: Arc<dyn Storage>, bps: u64) -> Arc<dyn Storage> {
    let options = ThrottleOptions { bytes: Some(Rate { per_second: bps, burst: bps }), ..ThrottleOptions::default() };
    Arc::new(Throttle::new(disk, options))
}

impl ServeArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Before any thread is started, so that all hold the signals back.
        let termination = Termination::catch().context("cannot catch signals")?;
        let mode =
            OpenMode { writable: !self.read_only, cache: self.cache, force_share: self.force_share, ..OpenMode::READ };
        let image = self.naming.open(&self.filename, mode)?;
        let mut storage = Arc::clone(&image.storage);
        if self.iops.is_some() || self.bps.is_some() {
            let rate = |limit: u64| Rate { per_second: limit, burst: limit.div_ceil(10) };
            let options = ThrottleOptions {
                requests: self.iops.map(rate),
                bytes: self.bps.map(rate),
                ..ThrottleOptions::default()
            };
            storage = Arc::new(Throttle::new(storage, options));
        }
        let listener = match (&self.socket, &self.listen) {
            (Some(path), _) => Listener::unix(path)?,
            (None, Some(address)) => {
                self.check_address(address)?;
                Listener::tcp(address.as_str())?
            }
            (None, None) => bail!("say where to listen: --socket PATH or --listen HOST:PORT"),
        };
        let export = Export {
            name: self.export.clone(),
            description: format!("{} ({})", self.filename, image.format),
            storage,
            read_only: self.read_only,
        };
        let server = Server::new(vec![export], self.max_clients);
        let handle = server.start(listener)?;
        let uri = match (&self.socket, handle.port(), &self.listen) {
            (Some(path), ..) => format!("nbd+unix:///{}?socket={}", self.export, path.display()),
            (None, Some(port), Some(address)) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                format!("nbd://{host}:{port}/{}", self.export)
            }
            _ => String::new(),
        };
        print(&format!("{uri}\n"))?;
        termination.wait().context("cannot wait for signals")?;
        drop(handle);
        drop(server);
        image.close().with_context(|| format!("cannot finish '{}'", self.filename))
    }

    /// Refuses addresses that other machines reach, unless that is wanted.
    fn check_address(&self, address: &str) -> anyhow::Result<()> {
        let addresses = address.to_socket_addrs().with_context(|| format!("cannot listen on {address}"))?;
        let open = addresses.into_iter().any(|address| !address.ip().is_loopback());
        if open && !self.insecure {
            bail!(
                "{address} is reachable from other machines and NBD authenticates nobody: listen on 127.0.0.1 or a \
                 --socket, or say --insecure"
            );
        }
        Ok(())
    }
}
