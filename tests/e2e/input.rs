//! What the monitor's pointer does to a real guest: Linux reads the events of a virtio tablet.

mod support;

use support::{Vm, ferro, guest, output};

/// Type, code and value of the events that the guest printed, 24 bytes of hexadecimal digits each.
fn events(printed: &str) -> Vec<(u16, u16, i32)> {
    let line = |line: &str| {
        let bytes =
            (0..24).map(|at| u8::from_str_radix(line.get(2 * at..2 * at + 2)?, 16).ok()).collect::<Option<Vec<_>>>()?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some((word(16), word(18), i32::from_le_bytes([bytes[20], bytes[21], bytes[22], bytes[23]])))
    };
    printed.lines().map(str::trim).filter(|text| text.len() == 48).filter_map(line).collect()
}

#[test]
fn linux_reads_a_tablet() {
    if guest("initrd-amd64.gz").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("monitor");
    let at = format!("unix:{}", socket.display());
    let script = "ferro.modules=virtio_pci,virtio_input,evdev ferro.run=\
        n=$(grep+-A5+Ferro+/proc/bus/input/devices|grep+-o+'event[0-9]*');exec+3</dev/input/$n;\
        grep+-A9+Ferro+/proc/bus/input/devices;echo+READY;dd+bs=24+count=10+<&3|hexdump+-v+-e+'24/1+\"%02x\"+\"\\n\"'";
    let arguments = ["--memory", "512M", "--tablet", "--monitor", &at];
    let Some(mut vm) = Vm::boot("amd64", &format!("quiet {script}"), &arguments) else { return };
    let told = vm.expect("READY");
    assert!(told.contains("B: ABS=3") && told.contains("B: EV=f"), "keys, wheel and two axes: {told}");
    let monitor = |line: &str| output(ferro(&["monitor"]).arg(&socket).arg(line));
    assert!(monitor("info mice").contains("* Mouse #1: virtio tablet (absolute)"));
    monitor("mouse_move 1000 2000");
    monitor("mouse_button 1");
    monitor("mouse_button 0");
    monitor("mouse_move 1000 99999 -1");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
    let expected = [
        &[(3, 0, 1000), (3, 1, 2000), (0, 0, 0)][..],
        &[(1, 0x110, 1), (0, 0, 0)],
        &[(1, 0x110, 0), (0, 0, 0)],
        &[(3, 1, 32_767), (2, 8, 1), (0, 0, 0)],
    ];
    assert_eq!(events(&printed), expected.concat(), "{printed}");
}
