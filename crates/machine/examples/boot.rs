//! Boots a kernel: `boot KERNEL INITRD APPEND [MEMORY] [CPUS]`.
use ferro_machine::*;
fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let a: Vec<String> = std::env::args().collect();
    let d = VmDescription {
        kernel: Some(a[1].clone().into()),
        initrd: Some(a[2].clone().into()),
        append: a[3].clone(),
        memory: a.get(4).map_or("512M", |s| s).parse().unwrap(),
        cpus: a.get(5).map_or(1, |s| s.parse().unwrap()),
        serial: SerialTarget::Stdio,
        accelerator: Accelerator::Soft,
        no_reboot: true,
        ..VmDescription::default()
    };
    println!("{:?}", run(&d, vec![]));
}
