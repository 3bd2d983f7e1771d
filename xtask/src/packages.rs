//! The Debian packages that tests, benchmarks and the demo need: what for, which are missing, and installing those.
//! Where packages can't be installed (another distribution, not root) it says so and the tests that need them skip.

use std::process::Stdio;

use crate::process::{command, output, run};

/// A Debian package and what needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    purpose: &'static str,
}

const fn package(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose }
}

/// Everything that some test or benchmark needs.
pub(crate) const ALL: &[Package] = &[
    package("qemu-utils", "the peer of `ferro img`, and its judge"),
    package("qemu-system-x86", "the peer of `ferro run`"),
    package("seabios", "PC firmware"),
    package("grub-rescue-pc", "a disc that firmware boots"),
    package("grub-pc-bin", "the boot loader of disks that firmware boots"),
    package("grub-common", "building those disks: grub-mkrescue"),
    package("xorriso", "building those disks"),
    package("busybox-static", "the userland of test guests"),
    package("cpio", "packing initial RAM disks"),
    package("kmod", "module dependencies in initial RAM disks"),
    package("binutils", "assembling our own guests"),
    package("gcc", "compiling our own guests"),
    package("libc6-dev", "static libraries for our own guests"),
    package("e2fsprogs", "ext4 file systems in images"),
    package("e2fsck-static", "checking those in guests that lost their power"),
    package("curl", "fetching pages from guests"),
    package("iputils-ping", "asking a floating address every two milliseconds"),
    package("keepalived", "the peer of failovers"),
    package("fdisk", "partitioned images"),
    package("fuse3", "mounting images without root"),
    package("libnbd-bin", "NBD clients: nbdcopy, nbdinfo"),
    package("fio", "load on NBD sockets"),
    package("nbdkit", "another NBD server to read from and write to"),
    package("gdb", "a client of the gdb stub"),
    package("iproute2", "TAP interfaces and network namespaces"),
    package("nftables", "firewall rules of network segments"),
    package("isc-dhcp-client", "a client of segments' DHCP: dhclient"),
    package("udhcpc", "another"),
    package("bind9-dnsutils", "a client of segments' DNS: dig"),
    package("dnsmasq-base", "the peer of segments' DHCP and DNS"),
    package("dnsperf", "load on DNS servers"),
    package("tigervnc-viewer", "a viewer of VNC screens"),
    package("xvfb", "an X server for that viewer"),
    package("xdotool", "typing into that viewer"),
    package("debootstrap", "a Debian root to boot"),
];

/// The version by which one can tell that `qemu-utils` fits `qemu-system-x86`: a newer backport of the one excludes the
/// archive's version of the other.
fn pinned(name: &str) -> anyhow::Result<String> {
    if name != "qemu-utils" {
        return Ok(name.to_owned());
    }
    let policy = output(command("apt-cache").args(["policy", "qemu-system-x86"]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.map_or_else(|| name.to_owned(), |version| format!("{name}={version}")))
}

fn installed(name: &str) -> bool {
    output(command("dpkg-query").args(["-W", "-f=${db:Status-Status}", name])).is_ok_and(|status| status == "installed")
}

/// Installs those of `packages` that are missing.
pub(crate) fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !installed(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("These Debian packages are missing:");
    for package in &missing {
        println!("  {:<18} {}", package.name, package.purpose);
    }
    let apt = command("apt-get").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !apt.is_ok_and(|status| status.success()) {
        println!("There is no apt-get here: install them by hand; what needs them will be skipped.");
        return Ok(());
    }
    let sudo = output(command("id").arg("-u"))?.trim() != "0";
    let apt_get = |arguments: &[String]| {
        let mut apt = if sudo {
            let mut apt = command("sudo");
            apt.arg("apt-get");
            apt
        } else {
            command("apt-get")
        };
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments).stdin(Stdio::null());
        run(&mut apt)
    };
    println!("Installing them with apt-get{}.", if sudo { " (through sudo)" } else { "" });
    apt_get(&["update".into(), "-qq".into()])?;
    let mut arguments: Vec<String> =
        ["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"].map(String::from).into();
    for package in &missing {
        arguments.push(pinned(package.name)?);
    }
    if missing.iter().any(|package| package.name == "qemu-system-x86") && installed("qemu-utils") {
        arguments.push(pinned("qemu-utils")?);
    }
    apt_get(&arguments)
}
