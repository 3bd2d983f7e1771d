//! What a running VM's process may still do: the user it becomes, the folders it reaches (Landlock) and the system calls
//! it makes (seccomp). Entered when its files are open and before the guest runs; nothing here knows a chip or an image.

mod calls;
mod files;

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, initgroups, setresgid, setresuid};
use tracing::warn;

pub(crate) use files::Reach;

use crate::description::{DescriptionError, VmDescription, refuse};

/// How the VM's process is confined: not at all by default, since the caller may do other things in its process too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxDescription {
    /// Whether files and system calls are confined.
    pub on: bool,
    /// The user whose rights the process has once its files are open; those of its starter if not given.
    pub user: Option<String>,
    /// Folders and files that it may reach beside those of its disks and sockets.
    pub allow: Vec<PathBuf>,
}

impl SandboxDescription {
    /// Refuses what can't be had before anything is opened.
    ///
    /// # Errors
    /// A user that there isn't or that this process can't become, a folder that there isn't.
    pub(crate) fn check(&self) -> Result<(), DescriptionError> {
        if let Some(missing) = self.allow.iter().find(|path| !path.exists()) {
            return refuse(&missing.display().to_string(), "--allow-path: there is no such folder or file");
        }
        let Some(name) = &self.user else { return Ok(()) };
        let found = find(name).map_err(|problem| DescriptionError { value: name.clone(), problem })?;
        let now = Uid::effective();
        if !now.is_root() && now != found.uid {
            return refuse(name, "--user: only root can become another user");
        }
        Ok(())
    }
}

fn find(name: &str) -> Result<User, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err("--user: there is no such user".into()),
        Err(error) => Err(format!("--user: cannot look the user up: {error}")),
    }
}

/// Confines this thread, and those that it starts from now on, to the files that the VM may reach; `None` where it isn't
/// confined.
///
/// # Errors
/// The kernel's refusal, where it has Landlock at all.
pub(crate) fn confine_files(vm: &VmDescription) -> std::io::Result<Option<Reach>> {
    if !vm.sandbox.on {
        return Ok(None);
    }
    let reach = Reach::of(vm);
    if reach.enter()? {
        return Ok(Some(reach));
    }
    warn!("this kernel has no Landlock: the VM's process isn't kept from files that are none of its business");
    Ok(None)
}

/// Takes from all threads what is no longer needed: the starter's rights, and the system calls that a VM doesn't make.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn drop_privileges(sandbox: &SandboxDescription) -> std::io::Result<()> {
    if let Some(name) = &sandbox.user {
        become_user(&find(name).map_err(std::io::Error::other)?)?;
    }
    if sandbox.on {
        calls::restrict()?;
    }
    Ok(())
}

/// Real, effective and saved IDs, so that there is no way back; of all threads, as the C library does it.
fn become_user(user: &User) -> std::io::Result<()> {
    if Uid::effective().is_root() {
        let name = std::ffi::CString::new(user.name.as_bytes())?;
        initgroups(&name, user.gid)?;
    }
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    if !user.uid.is_root() && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(std::io::Error::other("root's rights came back after they were given up"));
    }
    Ok(())
}

/// The folder that a file is in; the current one for a bare name.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
