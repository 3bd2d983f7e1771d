//! `cargo xtask bench`: each benchmark runs the peer beside us and prints the ratio. Nothing here asserts a time.

mod disk;
mod failover;
mod guest;
mod img;
mod net;
mod snapshot;
mod start;
mod vnc;

use clap::Subcommand;

/// Which benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Images: qemu-img and qemu-nbd beside us
    Img(img::ImgArgs),
    /// From exec to power-off of a Debian kernel, beside QEMU's TCG
    Boot(guest::GuestArgs),
    /// Guest programs beside QEMU's TCG and native execution
    Cpu(guest::GuestArgs),
    /// From exec to the first port write of a tiny guest, and the memory of its process, beside QEMU
    Start(guest::GuestArgs),
    /// A virtio disk as a guest's programs see it, beside QEMU's TCG
    Disk(guest::GuestArgs),
    /// A screen over VNC: bytes, time and CPU time of updates, beside QEMU
    Vnc(guest::GuestArgs),
    /// Saving and loading a running VM, beside QEMU's TCG
    Snapshot(guest::GuestArgs),
    /// Networks: DNS queries and DHCP exchanges beside dnsmasq, TAP and user networking beside QEMU's TCG
    Net(net::NetArgs),
    /// How long a floating address is away when its machine is cut off, beside keepalived
    Failover(guest::GuestArgs),
}

/// Runs one benchmark.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Img(args) => img::run(args),
        What::Boot(args) => guest::boot(args),
        What::Cpu(args) => guest::cpu(args),
        What::Start(args) => start::run(args),
        What::Disk(args) => disk::run(args),
        What::Vnc(args) => vnc::run(args),
        What::Snapshot(args) => snapshot::run(args),
        What::Net(args) => net::run(args),
        What::Failover(args) => failover::run(args),
    }
}
