//! What guests play: GRUB through the PC speaker, whose tone is in the recording, and Linux through the AC'97 sound card.

mod support;

use std::path::Path;

use ferro_machine::{Accelerator, AudioTarget};
use support::pc::{Pc, description};
use support::{Vm, ferro, guest, output};

const RESCUE: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";
const RATE: usize = 48_000;

/// The left channel of a recording, after a look at its header.
fn recorded(path: &Path) -> Vec<i16> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!((&bytes[..4], &bytes[36..40]), (&b"RIFF"[..], &b"data"[..]));
    assert_eq!(bytes[40..44], ((bytes.len() - 44) as u32).to_le_bytes());
    bytes[44..].chunks_exact(4).map(|frame| i16::from_le_bytes([frame[0], frame[1]])).collect()
}

/// How strong a frequency is in the samples: Goertzel's algorithm.
fn strength(samples: &[i16], frequency: f64) -> f64 {
    let coefficient = 2.0 * (std::f64::consts::TAU * frequency / RATE as f64).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        (last, before) = (f64::from(*sample) + coefficient * last - before, last);
    }
    (last * last + before * before - coefficient * last * before).max(0.0).sqrt() / samples.len() as f64
}

/// The strongest of the frequencies from 100 to 2000 Hz, in the part of the recording that isn't silent.
fn dominant(samples: &[i16]) -> u32 {
    let loud = |sample: &i16| sample.unsigned_abs() > 500;
    let first = samples.iter().position(loud).expect("there is sound");
    let last = samples.iter().rposition(loud).expect("there is sound");
    let part = &samples[first..=last];
    assert!(part.len() > RATE / 4, "{} frames are no quarter of a second", part.len());
    let part = &part[..part.len().min(2 * RATE)];
    let compare = |a: &u32, b: &u32| strength(part, f64::from(*a)).total_cmp(&strength(part, f64::from(*b)));
    (10..=200).map(|tens| tens * 10).max_by(compare).expect("there are frequencies")
}

#[test]
fn grub_plays_through_the_pc_speaker() {
    if !Path::new(RESCUE).exists() || !Path::new("/usr/share/seabios/bios-256k.bin").exists() {
        println!("skipped: grub-rescue-pc or seabios is missing; `cargo xtask packages` installs it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("grub.wav");
    let audio = AudioTarget::Wav(recording.clone());
    let (socket, captured) = (folder.path().join("monitor"), folder.path().join("captured.wav"));
    let monitors = vec![ferro_machine::MonitorTarget::Unix(socket.clone())];
    let described = description(Accelerator::Soft, RESCUE.as_ref());
    let mut pc = Pc::start(ferro_machine::VmDescription { audio, monitors, ..described }, RESCUE.as_ref());
    let monitor = |line: &str| output(ferro(&["monitor"]).arg(&socket).arg(line));
    pc.wait_for("Memtest86+");
    pc.type_keys("c");
    pc.wait_for("grub>");
    monitor(&format!("wavcapture {} 48000 16 2", captured.display()));
    assert!(monitor("info capture").contains("(48000,16,2)"));
    // At 60 beats a minute: 440 Hz for one.
    pc.type_text("play 60 440 1\n");
    // A key would end it: the next prompt tells that it is over.
    pc.wait_until("the end of the tune", |pc| {
        let contents = pc.handle.screen().and_then(ferro_machine::Screen::contents).unwrap_or_default();
        let played = contents.iter().position(|line| line == "grub> play 60 440 1");
        played.is_some_and(|at| contents[at + 1..].iter().any(|line| line == "grub>"))
    });
    monitor("stopcapture 0");
    assert_eq!(monitor("info capture").lines().count(), 1, "what --audio records goes on");
    pc.finish();
    assert_eq!(dominant(&recorded(&recording)), 440);
    assert_eq!(dominant(&recorded(&captured)), 440);
}

#[test]
fn a_sine_that_linux_plays_is_in_the_recording() {
    if guest("initrd-amd64.gz").is_none() || guest("play").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [recording, captured, socket] = ["linux.wav", "captured.wav", "monitor"].map(|name| folder.path().join(name));
    let (audio, monitor) = (format!("wav={}", recording.display()), format!("unix:{}", socket.display()));
    // Without the parameter the driver measures the card's clock, as well as a busy host lets it.
    let script = "snd_intel8x0.ac97_clock=48000 ferro.modules=snd-intel8x0 ferro.run=\
        while+[+!+-c+/dev/snd/pcmC0D0p+];do+sleep+0.1;done;echo+READY;read+x;play";
    let arguments = ["--memory", "512M", "--audio", &audio, "--monitor", &monitor];
    let Some(mut vm) = Vm::boot("amd64", &format!("quiet {script}"), &arguments) else { return };
    vm.expect("READY");
    output(ferro(&["monitor"]).arg(&socket).arg(format!("wavcapture {} 48000 16 2", captured.display())));
    vm.send("\n");
    vm.expect("played");
    output(ferro(&["monitor"]).arg(&socket).arg("stopcapture 0"));
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("FERRO-GUEST status 0"), "{printed}");
    assert_eq!(dominant(&recorded(&recording)), 440);
    assert_eq!(dominant(&recorded(&captured)), 440);
}

#[test]
fn linux_drives_the_sound_card() {
    if guest("initrd-amd64.gz").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("linux.wav");
    // 8000 samples a second of 8 bits, of which 16 are a wave of 500 Hz.
    let script = "ferro.modules=snd-intel8x0,snd-pcm-oss ferro.run=\
        while+[+!+-c+/dev/dsp+];do+sleep+0.1;done;\
        awk+'BEGIN{for(i=0;i<1000;i-=-1)printf(\"########@@@@@@@@\")}'|tr+'#@'+'\\360\\020'>/dev/dsp;\
        grep+snd_intel8x0+/proc/interrupts";
    let audio = format!("wav={}", recording.display());
    let arguments = ["--memory", "512M", "--audio", &audio];
    let Some(vm) = Vm::boot("amd64", &format!("quiet {script}"), &arguments) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("FERRO-GUEST status 0"), "{printed}");
    // Its driver leaves the card muted, and there is no mixer program in the guest: that the card asked for more tells
    // that it played.
    let line = printed.lines().find(|line| line.contains("snd_intel8x0")).expect("the card has an interrupt");
    let count: u32 = line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count");
    assert!(count > 1, "{line}");
    assert!(recorded(&recording).len() > RATE, "two seconds were played");
}
