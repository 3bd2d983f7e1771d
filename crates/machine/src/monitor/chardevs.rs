//! The character devices of a VM, as `info chardev` lists them: serial port, console and monitors, by QEMU's names.

use ferro_console::monitor::ChardevInfo;

use crate::description::{MonitorTarget, SerialTarget, VmDescription};

/// All of a VM.
pub(crate) fn chardevs(vm: &VmDescription) -> Vec<ChardevInfo> {
    let device = |label: String, filename: String| ChardevInfo { label, filename, frontend_open: true };
    let mut all = vec![device("serial0".into(), serial(&vm.serial))];
    if vm.console != SerialTarget::None {
        all.push(device("virtiocon0".into(), serial(&vm.console)));
    }
    let monitors = vm.monitors.iter().chain(&vm.qmps).enumerate();
    all.extend(monitors.map(|(index, target)| device(format!("compat_monitor{index}"), monitor(target))));
    all
}

fn serial(target: &SerialTarget) -> String {
    match target {
        SerialTarget::None => "null".into(),
        SerialTarget::Stdio => "stdio".into(),
        SerialTarget::File(path) => format!("file:{}", path.display()),
        SerialTarget::Unix(path) => format!("unix:{},server=on", path.display()),
        SerialTarget::Tcp(address) => format!("tcp:{address},server=on"),
    }
}

fn monitor(target: &MonitorTarget) -> String {
    match target {
        MonitorTarget::Stdio => "stdio".into(),
        MonitorTarget::Unix(path) => format!("unix:{},server=on", path.display()),
        MonitorTarget::Tcp(address) => format!("tcp:{address},server=on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_talks_is_listed() {
        let vm = VmDescription {
            serial: SerialTarget::File("out.log".into()),
            console: SerialTarget::Stdio,
            monitors: vec!["tcp::8888".parse().unwrap()],
            qmps: vec!["unix:/run/q".parse().unwrap()],
            ..VmDescription::default()
        };
        let told: Vec<_> = chardevs(&vm).into_iter().map(|one| format!("{} {}", one.label, one.filename)).collect();
        let wanted = [
            "serial0 file:out.log",
            "virtiocon0 stdio",
            "compat_monitor0 tcp:127.0.0.1:8888,server=on",
            "compat_monitor1 unix:/run/q,server=on",
        ];
        assert_eq!(told, wanted);
    }
}
