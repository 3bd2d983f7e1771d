//! `ferro mirror create`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use ferro_block::image::{Format, ImageSpec, OpenMode, Secrets, open};
use ferro_node::mirror::{MirrorConfig, Replication};

use super::State;
use crate::exit;

/// Flags of `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The mirror's name, the same on both nodes
    name: String,
    /// The device's size, the same on both nodes [default: the backing's]
    #[arg(long, value_name = "SIZE", value_parser = crate::img::size)]
    size: Option<u64>,
    /// The image or block device below; a file that doesn't exist is made
    #[arg(long, value_name = "FILE|DEVICE")]
    backing: PathBuf,
    /// The backing's format [default: found out, now and not later]
    #[arg(long, value_name = "FMT")]
    format: Option<Format>,
    /// Where the peer listens
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,
    /// Where this node listens (node 0 does, node 1 connects)
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// 0 on one machine, 1 on the other
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1))]
    node: u8,
    /// When a write is acknowledged: A (sent), B (received by the peer), C (on both disks)
    #[arg(long, value_name = "A|B|C", default_value = "C", ignore_case = true, value_parser = ["A", "B", "C"])]
    protocol: String,
    /// A file with the secret that both nodes share; without it the link is open, and has to be local
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Let the link be open although other machines can reach it
    #[arg(long)]
    insecure: bool,
    /// A primary that loses its peer waits until 'go-alone' (for clusters)
    #[arg(long)]
    fencing: bool,
    /// Milliseconds of silence after which the peer counts as lost
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout: u64,
}

impl CreateArgs {
    pub(crate) fn run(self, state: &State) -> anyhow::Result<ExitCode> {
        let place = state.place(&self.name)?;
        if place.config().exists() {
            bail!("mirror '{0}' exists already: 'ferro mirror delete {0}' removes it", self.name);
        }
        if !self.backing.exists() {
            let Some(size) = self.size else {
                bail!("{}: there is no such file; with --size it is made", self.backing.display())
            };
            if !matches!(self.format, None | Some(Format::Raw)) {
                bail!("{}: there is no such image; make it with 'ferro img create'", self.backing.display());
            }
            std::fs::File::create_new(&self.backing)
                .and_then(|file| file.set_len(size))
                .with_context(|| format!("cannot make {}", self.backing.display()))?;
        }
        let backing = std::path::absolute(&self.backing).context("cannot tell the backing's path")?;
        let name = backing.to_string_lossy();
        let image = open(&ImageSpec::from_name(&name, self.format)?, OpenMode::WRITE, &Secrets::default())?;
        let config = MirrorConfig {
            node: self.node,
            size: self.size.unwrap_or_else(|| image.storage.size()),
            format: image.format.to_string(),
            peer: self.peer,
            listen: self.listen,
            protocol: match self.protocol.to_ascii_uppercase().as_str() {
                "A" => Replication::A,
                "B" => Replication::B,
                _ => Replication::C,
            },
            secret_file: self
                .secret_file
                .map(std::path::absolute)
                .transpose()
                .context("cannot tell the secret's path")?,
            insecure: self.insecure,
            fencing: self.fencing,
            keepalive_ms: (self.timeout / 5).clamp(1, 1000),
            timeout_ms: self.timeout,
            sync_in_flight: 64,
            backing: backing.clone(),
        };
        if image.storage.size() < config.size {
            bail!("{name} has {} bytes, fewer than the mirror's {}", image.storage.size(), config.size);
        }
        image.close()?;
        config.create(&place)?;
        Ok(ExitCode::from(exit::OK))
    }
}
