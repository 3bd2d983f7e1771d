//! `infra.toml`: a whole infrastructure in one file, the same on both nodes of a pair: segments, mirrors, VMs, floating
//! addresses, hooks, and the groups they belong to. Read and checked as a whole; nothing is done here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::cluster::Span;
use crate::mirror::Replication;
use crate::segment::config::{Declaration, Segment};
use crate::segment::rule::Rule;

/// The group of what names none.
pub const DEFAULT_GROUP: &str = "services";

/// Why an infrastructure can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InfraError {
    /// The file can't be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// It isn't TOML, or has unknown fields.
    #[error("{path}: {1}", path = .0.display())]
    Syntax(PathBuf, #[source] Box<toml::de::Error>),
    /// Its parts don't fit together.
    #[error("{0}")]
    Wrong(String),
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infra {
    /// What people call it.
    pub name: String,
    /// What may pass between segments.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// DNS servers that are asked what isn't known here; the nodes' own if not given.
    #[serde(default)]
    pub upstreams: Vec<std::net::IpAddr>,
    /// Virtual networks, on every node.
    #[serde(default, rename = "segment")]
    pub segments: Vec<Segment>,
    /// Groups with settings of their own; others come to be by being named.
    #[serde(default, rename = "group")]
    pub groups: Vec<GroupSettings>,
    /// Mirrored disks.
    #[serde(default, rename = "mirror")]
    pub mirrors: Vec<MirrorSettings>,
    /// Virtual machines.
    #[serde(default, rename = "vm")]
    pub vms: Vec<VmSettings>,
    /// Floating addresses.
    #[serde(default, rename = "address")]
    pub addresses: Vec<AddressSettings>,
    /// Programs of the operator's.
    #[serde(default, rename = "hook")]
    pub hooks: Vec<HookSettings>,
    /// A number made of the file's text.
    #[serde(skip)]
    pub fingerprint: u64,
}

/// How a group behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GroupSettings {
    /// Its name.
    pub name: String,
    /// 0 or 1: where it runs if nothing else speaks for either node.
    #[serde(default)]
    pub preferred: u8,
    /// Move back to the preferred node by itself, so long after that can take it. Never if not given.
    pub failback: Option<Span>,
    /// After it failed on a node that tries again by itself; 60 s if not given.
    pub failure_timeout: Option<Span>,
}

/// A mirrored disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorSettings {
    /// Its name.
    pub name: String,
    /// Its size, such as `2G`.
    pub size: String,
    /// The port at which the nodes talk about it.
    pub port: u16,
    /// The image or block device below; `images/NAME.raw` in the node's state folder if not given.
    pub backing: Option<PathBuf>,
    /// What it holds at first: an image that is copied when the mirror is made.
    pub image: Option<PathBuf>,
    /// A, B or C.
    pub protocol: Option<Replication>,
    /// Its group.
    pub group: Option<String>,
}

/// A virtual machine: what `vm.toml` has, and how it is kept up.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmSettings {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Option<String>,
    /// How long its process may take to start; 60 s if not given.
    pub start_timeout: Option<Span>,
    /// How long its system may take to shut down; 60 s if not given.
    pub stop_timeout: Option<Span>,
    /// Restarts on one node within ten minutes before the group goes to the other; 3 if not given.
    pub restarts: Option<u32>,
    /// The rest, for its `vm.toml`.
    #[serde(flatten)]
    pub description: toml::Table,
}

/// An address that is where its group is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSettings {
    /// With the length of its network's prefix.
    pub address: IpNet,
    /// The interface, on both nodes.
    pub interface: String,
    /// Its group.
    pub group: Option<String>,
}

/// A program that is called with `start`, `stop` and `monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSettings {
    /// The program.
    pub program: PathBuf,
    /// Its group.
    pub group: Option<String>,
}

impl Infra {
    /// Reads and checks a file. File names in it are relative to its folder.
    ///
    /// # Errors
    /// See [`InfraError`].
    pub fn from_file(path: &Path) -> Result<Self, InfraError> {
        let text = std::fs::read_to_string(path).map_err(|error| InfraError::Read(path.into(), error))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
        Self::parse(&text, path, &folder)
    }

    /// Reads a text that came from `path` (for messages); file names are relative to `folder`.
    ///
    /// # Errors
    /// See [`InfraError`].
    pub fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, InfraError> {
        let mut infra: Self = toml::from_str(text).map_err(|error| InfraError::Syntax(path.into(), Box::new(error)))?;
        for mirror in &mut infra.mirrors {
            mirror.image = mirror.image.take().map(|image| folder.join(image));
            mirror.backing = mirror.backing.take().map(|backing| folder.join(backing));
        }
        infra.hooks.iter_mut().for_each(|hook| hook.program = folder.join(&hook.program));
        for vm in &mut infra.vms {
            for key in ["kernel", "initrd", "firmware", "cdrom"] {
                if let Some(toml::Value::String(file)) = vm.description.get_mut(key)
                    && file != "none"
                {
                    *file = folder.join(&*file).display().to_string();
                }
            }
            let disks = vm.description.get_mut("disk").and_then(toml::Value::as_array_mut).into_iter().flatten();
            for disk in disks.filter_map(toml::Value::as_table_mut) {
                // Names with a scheme (nbd://…) are no files.
                if let Some(toml::Value::String(file)) = disk.get_mut("file")
                    && !file.contains(':')
                {
                    *file = folder.join(&*file).display().to_string();
                }
            }
        }
        infra.fingerprint = fingerprint(text);
        infra.check()?;
        Ok(infra)
    }

    /// The segments as `ferro net up` takes them.
    #[must_use]
    pub fn declaration(&self) -> Declaration {
        Declaration { segments: self.segments.clone(), rules: self.rules.clone(), upstreams: self.upstreams.clone() }
    }

    /// Names of the groups, in the order in which they are first named.
    #[must_use]
    pub fn group_names(&self) -> Vec<String> {
        let named = self.groups.iter().map(|group| Some(group.name.clone()));
        let mirrors = self.mirrors.iter().map(|item| item.group.clone());
        let vms = self.vms.iter().map(|item| item.group.clone());
        let addresses = self.addresses.iter().map(|item| item.group.clone());
        let hooks = self.hooks.iter().map(|item| item.group.clone());
        let mut names: Vec<String> = Vec::new();
        for name in named.chain(mirrors).chain(vms).chain(addresses).chain(hooks) {
            let name = name.unwrap_or_else(|| DEFAULT_GROUP.into());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn check(&self) -> Result<(), InfraError> {
        let wrong = |why: String| Err(InfraError::Wrong(why));
        self.declaration().check().map_err(|error| InfraError::Wrong(error.to_string()))?;
        let mut seen = BTreeSet::new();
        for vm in &self.vms {
            check_name(&vm.name)?;
            if !seen.insert(&vm.name) {
                return wrong(format!("VM {}: is declared twice", vm.name));
            }
            for disk in tables(&vm.description, "disk") {
                if let Some(name) = disk.get("mirror").and_then(toml::Value::as_str) {
                    let Some(mirror) = self.mirrors.iter().find(|mirror| mirror.name == name) else {
                        return wrong(format!("VM {}: there is no mirror '{name}'", vm.name));
                    };
                    if mirror.group != vm.group {
                        return wrong(format!("VM {}: its mirror '{name}' is of another group", vm.name));
                    }
                }
            }
            for net in tables(&vm.description, "net") {
                if let Some(name) = net.get("segment").and_then(toml::Value::as_str)
                    && !self.segments.iter().any(|segment| segment.name == name)
                {
                    return wrong(format!("VM {}: there is no segment '{name}'", vm.name));
                }
            }
            for key in ["qmp", "name", "loadvm", "paused"] {
                if vm.description.contains_key(key) {
                    return wrong(format!("VM {}: {key} is set by the node", vm.name));
                }
            }
        }
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for mirror in &self.mirrors {
            check_name(&mirror.name)?;
            mirror.bytes()?;
            if !names.insert(&mirror.name) || !ports.insert(mirror.port) {
                return wrong(format!("mirror {}: its name or port {} is taken", mirror.name, mirror.port));
            }
        }
        for group in &self.groups {
            check_name(&group.name)?;
            if group.preferred > 1 {
                return wrong(format!("group {}: preferred is 0 or 1", group.name));
            }
        }
        Ok(())
    }
}

impl MirrorSettings {
    /// Its size in bytes.
    ///
    /// # Errors
    /// It is no size.
    pub fn bytes(&self) -> Result<u64, InfraError> {
        let wrong =
            || InfraError::Wrong(format!("mirror {}: size = \"{}\" is no size such as 2G", self.name, self.size));
        let digits = self.size.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let factor: u64 = match &self.size[digits.len()..] {
            "" => 1,
            "K" | "k" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => return Err(wrong()),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .filter(|size| *size > 0)
            .ok_or_else(wrong)
    }
}

/// A number for a file's lines, but for comments, which may say where it lies (SHA-256, cut).
fn fingerprint(text: &str) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        hash.update(line.trim_end());
        hash.update("\n");
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The tables of an array of tables.
pub(crate) fn tables<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Table> {
    table.get(key).and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table)
}

/// Names become file names and interface names.
fn check_name(name: &str) -> Result<(), InfraError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > 40 || !name.bytes().all(allowed) || name.starts_with('-') {
        return Err(InfraError::Wrong(format!("'{name}': a name has 1 to 40 letters, digits, '-' and '_'")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Infra, String> {
        Infra::parse(text, Path::new("infra.toml"), Path::new("/etc/ferro")).map_err(|error| error.to_string())
    }

    const WEB: &str = "name = \"x\"\n[[mirror]]\nname = \"web\"\nsize = \"2G\"\nport = 7801\n\
                       [[vm]]\nname = \"web\"\nmemory = \"256M\"\nkernel = \"vmlinuz\"\n[[vm.disk]]\nmirror = \"web\"\n";

    #[test]
    fn a_file_becomes_groups_and_absolute_names() {
        let infra = read(&format!("{WEB}[[address]]\naddress = \"192.168.1.1/24\"\ninterface = \"eth0\"\n")).unwrap();
        assert_eq!(infra.group_names(), [DEFAULT_GROUP]);
        assert_eq!(infra.mirrors[0].bytes().unwrap(), 2 << 30);
        assert_eq!(infra.vms[0].description["kernel"].as_str(), Some("/etc/ferro/vmlinuz"));
        let infra = read(&format!("{WEB}[[vm.disk]]\nfile = \"data.qcow2\"\n")).unwrap();
        let disks: Vec<_> = tables(&infra.vms[0].description, "disk").collect();
        assert_eq!(disks[1]["file"].as_str(), Some("/etc/ferro/data.qcow2"));
    }

    #[test]
    fn comments_make_no_difference_between_nodes() {
        let plain = read(WEB).unwrap().fingerprint;
        assert_eq!(read(&format!("# folder /somewhere\n{WEB}")).unwrap().fingerprint, plain);
        assert_ne!(read(&WEB.replace("256M", "512M")).unwrap().fingerprint, plain);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_the_reason() {
        for (text, words) in [
            (WEB.replace("mirror = \"web\"", "mirror = \"mail\""), "no mirror 'mail'"),
            (WEB.replace("2G", "2 loaves"), "no size"),
            (format!("{WEB}[[vm]]\nname = \"web\"\n"), "declared twice"),
            (format!("{WEB}[[vm]]\nname = \"../x\"\n"), "letters, digits"),
            (format!("{WEB}[[vm]]\nname = \"b\"\n[[vm.net]]\nsegment = \"dmz\"\n"), "no segment 'dmz'"),
            (format!("{WEB}[[vm]]\nname = \"b\"\nqmp = \"x\"\n"), "set by the node"),
            (format!("{WEB}[[address]]\naddress = \"192.168.1.1\"\n"), "address"),
            (format!("{WEB}[[group]]\nname = \"g\"\npreferred = 3\n"), "0 or 1"),
        ] {
            let complaint = read(&text).unwrap_err();
            assert!(complaint.contains(words), "{text}: {complaint}");
        }
    }
}
