//! From an infrastructure to what the cluster's engine runs on this node: mirrors are made and brought up, VMs described,
//! everything put into its group in the order mirrors, VMs, hooks, addresses.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ferro_block::image::{ImageSpec, OpenMode, Secrets, open};
use ferro_cluster::NodeId;
use ferro_cluster::group::{GroupConfig, UnitConfig};

use super::NodeError;
use super::config::NodeConfig;
use crate::cluster::{Member, Span};
use crate::infra::{DEFAULT_GROUP, Infra, MirrorSettings, VmSettings, tables};
use crate::mirror::{MirrorConfig, Place, Replication};
use crate::resource::address::FloatingAddress;
use crate::resource::hook::Hook;
use crate::resource::mirror::MirrorResource;
use crate::resource::vm::{VmPlace, VmResource};
use crate::resource::{Mirrored, Resource};
use crate::segment::port::{Wish, interface};

/// How long ordinary things may take.
const USUAL: Duration = Duration::from_mins(1);
/// Within which restarts of one part count.
const WINDOW: Duration = Duration::from_mins(10);

/// Makes and brings up the mirrors of a pair; on a single node, the images themselves.
///
/// # Errors
/// Files that can't be made, mirrors that can't start.
pub(super) fn mirrors(config: &NodeConfig, infra: &Infra) -> Result<(), NodeError> {
    for mirror in &infra.mirrors {
        let backing = backing(config, mirror);
        let size = mirror.bytes()?;
        let place = Place::new(&config.mirrors(), &mirror.name)?;
        let fresh = !place.config().exists();
        if !backing.exists() {
            make_backing(&backing, size)?;
            if let Some(image) = &mirror.image {
                fill(&backing, image, size)?;
            }
        }
        if config.cluster.is_some() {
            if fresh {
                describe_mirror(config, mirror, &backing, size)?.create(&place)?;
            }
            start_mirror(&place)?;
        }
    }
    Ok(())
}

fn backing(config: &NodeConfig, mirror: &MirrorSettings) -> std::path::PathBuf {
    mirror.backing.clone().unwrap_or_else(|| config.images().join(format!("{}.raw", mirror.name)))
}

fn make_backing(path: &Path, size: u64) -> Result<(), NodeError> {
    let fail = |error| NodeError::File(path.into(), "make", error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let file = std::fs::File::create_new(path).map_err(fail)?;
    file.set_len(size).and_then(|()| file.sync_all()).map_err(fail)
}

/// Copies what a new disk holds at first.
fn fill(backing: &Path, image: &Path, size: u64) -> Result<(), NodeError> {
    let name = image.display().to_string();
    let fail = |error: ferro_block::Error| NodeError::Image(name.clone(), error.to_string());
    let result = (|| {
        let source = open(&ImageSpec::from_name(&name, None).map_err(fail)?, OpenMode::READ, &Secrets::default())
            .map_err(fail)?;
        if source.storage.size() > size {
            let problem = format!("it has {} bytes, more than the mirror's {size}", source.storage.size());
            return Err(NodeError::Image(name.clone(), problem));
        }
        let target = std::fs::File::options()
            .write(true)
            .open(backing)
            .map_err(|error| NodeError::File(backing.into(), "open", error))?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < source.storage.size() {
            let length = (source.storage.size() - offset).min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(length).unwrap_or(0)];
            source.storage.read_at(part, offset).map_err(fail)?;
            // Zeroes stay holes.
            if part.iter().any(|byte| *byte != 0) {
                std::os::unix::fs::FileExt::write_all_at(&target, part, offset)
                    .map_err(|error| NodeError::File(backing.into(), "write", error))?;
            }
            offset += length;
        }
        target.sync_all().map_err(|error| NodeError::File(backing.into(), "write", error))
    })();
    if result.is_err() {
        // Half an image must not be taken for a whole one at the next start.
        let _ = std::fs::remove_file(backing);
    }
    result
}

fn describe_mirror(
    config: &NodeConfig,
    mirror: &MirrorSettings,
    backing: &Path,
    size: u64,
) -> Result<MirrorConfig, NodeError> {
    let (Some(cluster), Some(own), Some(peer)) = (&config.cluster, config.mirror_address, config.peer_mirror_address)
    else {
        return Err(NodeError::MirrorProcess(mirror.name.clone(), "this node is no part of a pair".into()));
    };
    let address = |ip: std::net::IpAddr| std::net::SocketAddr::new(ip, mirror.port).to_string();
    let timing = cluster.timing();
    let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    Ok(MirrorConfig {
        node: cluster.node,
        size,
        backing: backing.into(),
        format: "raw".into(),
        peer: address(peer),
        listen: address(own),
        protocol: mirror.protocol.unwrap_or(Replication::C),
        secret_file: Some(cluster.secret_file.clone()),
        insecure: false,
        fencing: true,
        keepalive_ms: milliseconds(timing.keepalive),
        timeout_ms: milliseconds(timing.deadtime),
        sync_in_flight: 64,
    })
}

/// Starts a mirror's process in the background, unless it runs.
///
/// # Errors
/// It doesn't start; its log says more.
pub(super) fn start_mirror(place: &Place) -> Result<(), NodeError> {
    if crate::mirror::call(place, crate::mirror::Command::Status).is_ok() {
        return Ok(());
    }
    let fail = |error| NodeError::File(place.config(), "start the mirror of", error);
    let program = std::env::current_exe().map_err(fail)?;
    let config = place.config();
    let folder = config.parent().unwrap_or(Path::new("/"));
    let told = Command::new(program)
        .args(["mirror", "up", &place.name, "--state"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(fail)?;
    if told.status.success() || crate::mirror::call(place, crate::mirror::Command::Status).is_ok() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&told.stderr).trim().to_owned();
    Err(NodeError::MirrorProcess(place.name.clone(), why))
}

/// The place of a VM's files.
#[must_use]
pub fn vm_place(config: &NodeConfig, name: &str) -> VmPlace {
    VmPlace { name: name.into(), descriptions: config.vms(), run: config.run.clone() }
}

/// Writes the descriptions of VMs and puts everything into its group.
///
/// # Errors
/// Files that can't be written.
pub(super) fn members(config: &NodeConfig, infra: &Infra) -> Result<Vec<Member>, NodeError> {
    infra.group_names().into_iter().map(|name| member(config, infra, &name)).collect()
}

fn member(config: &NodeConfig, infra: &Infra, name: &str) -> Result<Member, NodeError> {
    let ours = |group: &Option<String>| group.as_deref().unwrap_or(DEFAULT_GROUP) == name;
    let mut units: Vec<UnitConfig> = Vec::new();
    let mut resources: Vec<Box<dyn Resource>> = Vec::new();
    let mut mirrored: Vec<Box<dyn Mirrored>> = Vec::new();
    for mirror in infra.mirrors.iter().filter(|item| ours(&item.group) && config.cluster.is_some()) {
        let resource = MirrorResource::new(Place::new(&config.mirrors(), &mirror.name)?);
        units.push(unit(format!("mirror {}", mirror.name), Duration::from_secs(2), true));
        mirrored.push(Box::new(resource.clone()));
        resources.push(Box::new(resource));
    }
    for vm in infra.vms.iter().filter(|item| ours(&item.group)) {
        let place = vm_place(config, &vm.name);
        describe_vm(config, infra, vm, &place)?;
        let span = |given: Option<Span>| given.map_or(USUAL, |span| span.0);
        units.push(UnitConfig {
            start_timeout: span(vm.start_timeout),
            stop_timeout: span(vm.stop_timeout),
            restarts: vm.restarts.unwrap_or(3),
            ..unit(format!("vm {}", vm.name), Duration::from_secs(1), false)
        });
        resources.push(Box::new(VmResource::new(place, ports(infra, vm)?, config.run.clone())));
    }
    for hook in infra.hooks.iter().filter(|item| ours(&item.group)) {
        units.push(unit(format!("hook {}", hook.program.display()), Duration::from_secs(10), false));
        resources.push(Box::new(Hook::new(hook.program.clone())));
    }
    for address in infra.addresses.iter().filter(|item| ours(&item.group)) {
        units.push(unit(format!("address {}", address.address), Duration::from_secs(2), false));
        resources.push(Box::new(FloatingAddress::new(address.address, address.interface.clone())));
    }
    let settings = infra.groups.iter().find(|group| group.name == name).cloned().unwrap_or_default();
    let config = GroupConfig {
        name: name.into(),
        units,
        preferred: NodeId::from_index(settings.preferred).unwrap_or(NodeId::Zero),
        failback: settings.failback.map(|span| span.0),
        mirrored: !mirrored.is_empty(),
        fingerprint: infra.fingerprint,
        failure_timeout: Some(settings.failure_timeout.map_or(USUAL, |span| span.0)),
    };
    Ok(Member { config, resources, mirrors: mirrored })
}

fn unit(name: String, monitor: Duration, mirror: bool) -> UnitConfig {
    UnitConfig {
        name,
        start_timeout: USUAL,
        stop_timeout: USUAL,
        monitor: Some(monitor),
        restarts: 3,
        window: WINDOW,
        mirror,
    }
}

/// The ports of segments that a VM's cards are plugged into.
fn ports(infra: &Infra, vm: &VmSettings) -> Result<Vec<Wish>, NodeError> {
    let mut ports = vec![];
    for (card, net) in tables(&vm.description, "net").enumerate() {
        let text = |key: &str| net.get(key).and_then(toml::Value::as_str);
        let Some(segment) = text("segment").filter(|name| infra.segments.iter().any(|one| one.name == *name)) else {
            continue;
        };
        let wrong = |key: &str| NodeError::Card(vm.name.clone(), card, format!("{key} is no address"));
        ports.push(Wish {
            segment: segment.to_owned(),
            vm: vm.name.clone(),
            card,
            mac: text("mac").map(|mac| mac.parse().map_err(|_| wrong("mac"))).transpose()?,
            address: text("address").map(|address| address.parse().map_err(|_| wrong("address"))).transpose()?,
            spoofing: net.get("spoofing").and_then(toml::Value::as_bool).unwrap_or_default(),
            ..Wish::default()
        });
    }
    Ok(ports)
}

/// Writes a VM's `vm.toml`: mirrors become their devices, segments TAP interfaces.
fn describe_vm(config: &NodeConfig, infra: &Infra, vm: &VmSettings, place: &VmPlace) -> Result<(), NodeError> {
    let mut table = vm.description.clone();
    table.insert("name".into(), vm.name.clone().into());
    if !table.contains_key("serial") {
        table.insert("serial".into(), format!("unix={}", place.console().display()).into());
    }
    for disk in table.get_mut("disk").and_then(toml::Value::as_array_mut).into_iter().flatten() {
        let Some(disk) = disk.as_table_mut() else { continue };
        let Some(name) = disk.remove("mirror").and_then(|name| name.as_str().map(str::to_owned)) else { continue };
        let file = match infra.mirrors.iter().find(|mirror| mirror.name == name) {
            Some(mirror) if config.cluster.is_none() => backing(config, mirror).display().to_string(),
            _ => format!("nbd+unix:///?socket={}", Place::new(&config.mirrors(), &name)?.nbd().display()),
        };
        disk.insert("file".into(), file.into());
        disk.insert("format".into(), "raw".into());
    }
    for (index, net) in table.get_mut("net").and_then(toml::Value::as_array_mut).into_iter().flatten().enumerate() {
        if let Some(net) = net.as_table_mut()
            && net.remove("segment").is_some()
        {
            net.remove("address");
            net.remove("spoofing");
            net.insert("tap".into(), interface(&vm.name, index).into());
        }
    }
    let path = place.description();
    let fail = |error| NodeError::File(path.clone(), "write", error);
    std::fs::create_dir_all(config.vms()).map_err(fail)?;
    std::fs::write(&path, format!("# Written by ferro node from infra.toml.\n{table}")).map_err(fail)
}
