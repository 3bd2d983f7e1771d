//! Copies of VMs that an `infra.toml` declares: their disks and their entry. Works on files, of VMs that don't run; the
//! node's daemon has no part in it. Which disks become what is planned first ([`plan`]), and done then ([`Plan::make`]).
//!
//! A linked clone shares the source's data: the source's disk gets the name of a base that nobody writes any more, and
//! source and clone each get an overlay over it, the source's under the name that its disk had.

mod disks;

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::infra::{Infra, InfraError};

/// Why a VM can't be cloned.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The infrastructure, as it is or with the clone in it.
    #[error(transparent)]
    Infra(#[from] InfraError),
    /// Nothing to clone.
    #[error("{path}: there is no VM '{1}'", path = .0.display())]
    NoVm(PathBuf, String),
    /// A disk on two nodes.
    #[error(
        "VM {0}: its disk is the mirror '{1}', which clone doesn't copy: declare a [[mirror]] with image = \"COPY\", made by 'ferro img convert', and a [[vm]] on it"
    )]
    Mirrored(String, String),
    /// A disk that is no file.
    #[error("VM {0}: its disk {1} is no file on this machine")]
    NoFile(String, String),
    /// The entry says raw.
    #[error("VM {0}: its disk {path} can't be shared, as its entry says format = \"{2}\": leave format out, or say --full", path = .1.display())]
    Format(String, PathBuf, String),
    /// Snapshots would stay in the base.
    #[error("{path} has snapshots, to which the VM couldn't go back any more: delete them, or say --full", path = .0.display())]
    Snapshots(PathBuf),
    /// There is a file already.
    #[error("{path} is there already", path = .0.display())]
    Exists(PathBuf),
    /// An image.
    #[error("{path}: {1}{hint}", path = .0.display(), hint = hint(.1))]
    Image(PathBuf, #[source] ferro_block::Error),
    /// A file.
    #[error("cannot {1} {path}: {2}", path = .0.display())]
    File(PathBuf, &'static str, #[source] std::io::Error),
}

fn hint(error: &ferro_block::Error) -> &'static str {
    match error {
        ferro_block::Error::Locked { .. } => " (a VM that is cloned has to be stopped, or a snapshot named)",
        _ => "",
    }
}

/// How a clone comes to its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It shares the source's.
    Linked,
    /// It has a copy: of the disks, or of this snapshot in them.
    Full(Option<String>),
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    source: PathBuf,
    format: Option<String>,
    target: PathBuf,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The clone's entry in `infra.toml`.
    pub entry: String,
    /// Keys that were left out of it, as two VMs can't both have them.
    pub left_out: Vec<String>,
    disks: Vec<Disk>,
    vm: String,
    way: Way,
}

/// Keys that name something that only one VM can have.
const ALONE: [&str; 5] = ["console", "gdb", "monitor", "serial", "vnc"];

/// Plans a clone of the VM `source` of an infrastructure with this text; `path` is its file's name for messages, `folder` what
/// file names in it are relative to.
///
/// # Errors
/// See [`CloneError`]; nothing has been done.
pub fn plan(
    text: &str,
    path: &Path,
    folder: &Path,
    (source, name): (&str, &str),
    way: Way,
) -> Result<Plan, CloneError> {
    Infra::parse(text, path, folder)?;
    let syntax = |error| InfraError::Syntax(path.into(), Box::new(error));
    let all: Table = toml::from_str(text).map_err(syntax)?;
    let found = crate::infra::tables(&all, "vm").find(|vm| vm.get("name").and_then(Value::as_str) == Some(source));
    let mut entry = found.cloned().ok_or_else(|| CloneError::NoVm(path.into(), source.into()))?;
    let (mut disks, mut left_out) = (vec![], vec![]);
    for disk in entry.get_mut("disk").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(disk) = disk.as_table_mut() else { continue };
        if let Some(mirror) = disk.get("mirror").and_then(Value::as_str) {
            return Err(CloneError::Mirrored(source.into(), mirror.into()));
        }
        let is = |key: &str| disk.get(key).and_then(Value::as_bool).unwrap_or(false);
        let is_disc = disk.get("media").and_then(Value::as_str) == Some("cdrom");
        let Some(file) = disk.get("file").and_then(Value::as_str).map(str::to_owned) else { continue };
        // What nobody writes, both may have.
        if is_disc || is("readonly") || is("snapshot") {
            continue;
        }
        if file.contains(':') {
            return Err(CloneError::NoFile(source.into(), file));
        }
        let format = disk.get("format").and_then(Value::as_str).map(str::to_owned);
        let target = renamed(Path::new(&file), source, name);
        disk.insert("file".into(), target.display().to_string().into());
        disk.insert("format".into(), "qcow2".into());
        disks.push(Disk { source: folder.join(&file), format, target: folder.join(target) });
    }
    for net in entry.get_mut("net").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(net) = net.as_table_mut() else { continue };
        left_out.extend(net.remove("mac").map(|_| "net.mac".to_owned()));
        left_out.extend(net.remove("address").map(|_| "net.address".to_owned()));
        left_out.extend(net.remove("tap").map(|_| "net.tap".to_owned()));
        if let Some(Value::String(user)) = net.get_mut("user")
            && user.contains("hostfwd=")
        {
            let kept: Vec<&str> = user.split(',').filter(|option| !option.starts_with("hostfwd=")).collect();
            *user = kept.join(",");
            left_out.push("net.user's hostfwd".into());
        }
    }
    left_out.extend(ALONE.iter().filter(|key| entry.remove(**key).is_some()).map(|key| (*key).to_owned()));
    entry.remove("name");
    let entry = written(name, entry);
    Infra::parse(&appended(text, &entry), path, folder)?;
    Ok(Plan { entry, left_out, disks, vm: source.into(), way })
}

/// A text of an infrastructure with an entry more.
#[must_use]
pub fn appended(text: &str, entry: &str) -> String {
    format!("{}\n\n{entry}", text.trim_end())
}

/// The name of a clone's disk: `web.qcow2` becomes `NAME.qcow2`, `data.raw` `NAME-data.qcow2`.
fn renamed(file: &Path, source: &str, name: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let stem = if stem == source { name.to_owned() } else { format!("{name}-{stem}") };
    file.with_file_name(format!("{stem}.qcow2"))
}

/// An entry as people write it: the name first.
fn written(name: &str, rest: Table) -> String {
    let all = Table::from_iter([("vm".to_owned(), Value::Array(vec![Value::Table(rest)]))]);
    let text = all.to_string();
    format!("[[vm]]\nname = \"{name}\"\n{}", text.strip_prefix("[[vm]]\n").unwrap_or(&text))
}

impl Plan {
    /// Makes the disks. Should that fail, the clone has none, and the source is as good as before.
    ///
    /// # Errors
    /// See [`CloneError`].
    pub fn make(&self) -> Result<(), CloneError> {
        let mut made: Vec<&Path> = vec![];
        for disk in &self.disks {
            let result = match &self.way {
                Way::Linked => disks::link(&self.vm, disk),
                Way::Full(snapshot) => disks::copy_whole(disk, snapshot.as_deref()),
            };
            if let Err(error) = result {
                for path in made {
                    // What is left of them is in nobody's way but a further attempt's, which says so.
                    let _ = std::fs::remove_file(path);
                }
                return Err(error);
            }
            made.push(&disk.target);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
