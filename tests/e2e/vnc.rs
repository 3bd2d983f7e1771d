//! The screen over VNC: GRUB's rescue disc seen and typed at by viewers over real connections, and by those that misbehave.

mod support;

#[path = "support/rfb_decoder.rs"]
mod rfb_decoder;
#[path = "support/viewer.rs"]
mod viewer;

#[path = "vnc/channels.rs"]
mod channels;
#[path = "vnc/tigervnc.rs"]
mod tigervnc;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ferro_console::rfb::challenge_response as respond;
use ferro_machine::{Accelerator, MonitorTarget, Surface, VmDescription};
use support::pc::{Pc, description};
use viewer::{COPY_RECT, HEXTILE, RAW, TIGHT, Viewer, ZLIB, ZRLE};

const RESCUE: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";

/// A VM at GRUB's menu with its VNC port and, in the folder, its monitor's socket; `None`, after saying so, without what
/// it boots.
fn grub(folder: &Path, options: &str) -> Option<(Pc, u16)> {
    let iso = Path::new(RESCUE);
    for needed in [RESCUE, "/usr/share/seabios/bios-256k.bin"] {
        if !Path::new(needed).exists() {
            eprintln!("skipped: {needed} is missing; `cargo xtask packages` installs it");
            return None;
        }
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let description = VmDescription {
        vnc: Some(format!("127.0.0.1:{}{options}", port - 5900).parse().unwrap()),
        monitors: vec![MonitorTarget::Unix(folder.join("monitor"))],
        ..description(Accelerator::Soft, iso)
    };
    let mut pc = Pc::start(description, iso);
    pc.wait_for("Memtest86+");
    Some((pc, port))
}

/// What the monitor answers to a line.
fn monitor(folder: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(folder.join("monitor")).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let (mut text, mut byte) = (vec![], [0]);
    while String::from_utf8_lossy(&text).matches("(ferro) ").count() < 2 {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// The screen as the monitor writes it into a file.
fn screendump(folder: &Path) -> Vec<u8> {
    let file = folder.join("screen.ppm");
    monitor(folder, &format!("screendump {}", file.display()));
    std::fs::read(file).unwrap()
}

/// The viewer's picture as such a file.
fn ppm(viewer: &Viewer) -> Vec<u8> {
    let picture = &viewer.picture;
    let mut bytes = format!("P6\n{} {}\n255\n", picture.width, picture.height).into_bytes();
    bytes.extend(picture.pixels.iter().flat_map(|pixel| [(pixel >> 16) as u8, (pixel >> 8) as u8, *pixel as u8]));
    bytes
}

fn screen(pc: &Pc) -> Surface {
    pc.handle.screen().expect("there is a VGA").picture()
}

#[test]
fn viewers_see_the_screen_in_every_encoding_and_type_at_grub() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut pc, port)) = grub(folder.path(), "") else { return };
    let mut following = Viewer::connect(port, None, true, TIGHT);
    following.look();
    assert_eq!(following.name, "vm");
    let mut typist = Viewer::connect(port, None, true, RAW);
    typist.type_text("c");
    pc.wait_for("grub>");
    typist.type_text("echo 6*7=$grub_platform\n");
    pc.wait_for("6*7=pc");
    pc.wait_until_still();
    let dump = screendump(folder.path());
    assert!(dump == screen(&pc).to_ppm());
    for encoding in [RAW, HEXTILE, ZLIB, ZRLE, TIGHT] {
        let mut viewer = Viewer::connect(port, None, true, encoding);
        viewer.look();
        assert!(ppm(&viewer) == dump, "encoding {encoding} shows what the monitor does");
    }
    // The one that only asked for changes has come to the same, whoever else looked meanwhile.
    for _ in 0..50 {
        if ppm(&following) == dump {
            break;
        }
        following.request(true);
        following.update();
    }
    assert!(ppm(&following) == dump, "changes add up to the picture");
    let told = monitor(folder.path(), "info vnc");
    assert!(told.contains(&port.to_string()) && told.contains("none"), "{told}");
    // An update that is waited for comes with the next change, and only with what changed.
    following.request(true);
    typist.type_text("x");
    assert!(following.update() > 0);
    // In another mode the screen has another size.
    typist.type_text("\nset gfxmode=800x600x32;loadfont unicode;insmod all_video;terminal_output gfxterm\n");
    pc.wait_until("a picture of 800×600", |pc| screen(pc).width() == 800);
    pc.wait_until_still();
    following.look();
    let dump = screendump(folder.path());
    assert!(ppm(&following) == dump, "the viewer has the new size");
    pc.finish();
}

#[test]
fn a_console_that_scrolls_is_copied_and_stays_right() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut pc, port)) = grub(folder.path(), "") else { return };
    let mut viewer = Viewer::begin(viewer::enter(port, None).unwrap(), true, &[COPY_RECT, ZRLE]);
    viewer.look();
    viewer.press('c');
    pc.wait_for("grub>");
    // Hardly two of the lines are alike, and more of them than the screen has.
    viewer.type_text("set pager=0;help\n");
    pc.wait_until("the end of a long list", |pc| {
        !pc.handle.screen().unwrap().contents().unwrap().join("").contains("version 2")
    });
    for _ in 0..200 {
        viewer.request(true);
        viewer.update();
        if viewer.copied > 0 && ppm(&viewer) == screen(&pc).to_ppm() {
            break;
        }
        viewer.type_text("\n");
    }
    assert!(viewer.copied > 0, "what scrolls is copied");
    pc.wait_until_still();
    for _ in 0..50 {
        if ppm(&viewer) == screen(&pc).to_ppm() {
            break;
        }
        viewer.request(true);
        viewer.update();
    }
    assert!(ppm(&viewer) == screen(&pc).to_ppm(), "copies and changes add up to the picture");
    pc.finish();
}

#[test]
fn a_password_keeps_others_out_and_the_monitor_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "sesame\n").unwrap();
    let Some((pc, port)) = grub(folder.path(), &format!(",password-file={}", file.display())) else { return };
    assert_eq!(viewer::enter(port, Some("Sesame")).err().as_deref(), Some("wrong password"));
    assert!(viewer::enter(port, Some("sesame")).is_ok());
    monitor(folder.path(), "change vnc password other");
    assert!(viewer::enter(port, Some("sesame")).is_err());
    Viewer::connect(port, Some("other"), true, ZRLE).look();
    pc.finish();
}

#[test]
fn a_viewer_that_wants_to_be_alone_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some((pc, port)) = grub(folder.path(), "") else { return };
    let mut first = Viewer::connect(port, None, true, RAW);
    first.look();
    let mut second = Viewer::connect(port, None, false, RAW);
    second.look();
    assert!(first.is_gone());
    second.look();
    pc.finish();
}

#[test]
fn a_crowd_that_stalls_vanishes_and_babbles_leaves_the_vm_and_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut pc, port)) = grub(folder.path(), "") else { return };
    let mut good = Viewer::connect(port, None, true, ZRLE);
    good.look();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut stalled, mut seed) = (vec![], 0x9e37_79b9_u32);
    for round in 0..100 {
        match round % 5 {
            // Says nothing; at most this many, so that there is room for others.
            0 if stalled.len() < 8 => stalled.push(connect()),
            // Asks for whole screens and reads none.
            1 if stalled.len() < 16 => {
                let mut stream = connect();
                stream.write_all(b"RFB 003.008\n\x01\x01").unwrap();
                for _ in 0..2000 {
                    // It may be full.
                    stream.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
                    if stream.write_all(&[3, 0, 0, 0, 0, 0, 2, 0xd0, 1, 0x90]).is_err() {
                        break;
                    }
                }
                stalled.push(stream);
            }
            2 => drop(connect()),
            // Vanishes with a key (scroll lock) held.
            3 => drop(connect().write_all(b"RFB 003.008\n\x01\x01\x04\x01\0\0\0\0\xff\x14")),
            _ => {
                let mut stream = connect();
                let mut bytes = b"RFB 003.008\n\x01\x01".to_vec();
                bytes.extend((0..4096).map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // No key events among them: those would be the guest's business.
                    (seed >> 24) as u8 | 8
                }));
                // It is hung up on before it has said all.
                let _ = stream.write_all(&bytes[round % 2 * 14..]);
            }
        }
    }
    good.look();
    good.type_text("c");
    pc.wait_for("grub>");
    pc.wait_until_still();
    good.look();
    assert!(ppm(&good) == screen(&pc).to_ppm());
    drop(stalled);
    pc.finish();
}

#[test]
fn a_hundred_that_never_finish_a_sentence_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut pc, port)) = grub(folder.path(), "") else { return };
    let mut good = Viewer::connect(port, None, true, ZRLE);
    good.look();
    // Each says a little less than it would have to: of the greeting, of its wish to share, of a message, of an HTTP request.
    let sentences: [&[u8]; 8] = [
        b"",
        b"R",
        b"RFB 003.008",
        b"RFB 003.008\n",
        b"RFB 003.008\n\x01",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"RFB 003.008\n\x02\x01",
    ];
    let talkers: Vec<TcpStream> = (0..150)
        .map(|number| {
            let mut stream = viewer::connect(port);
            // It may have been hung up on already.
            let _ = stream.write_all(sentences[number % sentences.len()]);
            stream
        })
        .collect();
    // Those that are in and leave a message unfinished are clients as others are, of which there may be 32.
    let mut entered = vec![];
    for message in
        [&[0_u8; 19][..], &[2, 0, 0xff, 0xff, 1], &[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff], &[255, 0, 0], &[248; 8]]
    {
        let mut stream = viewer::enter(port, None).unwrap();
        stream.write_all(&[&[1], message].concat()).unwrap();
        entered.push(stream);
    }
    let mut late = Viewer::connect(port, None, true, TIGHT);
    late.look();
    late.type_text("c");
    pc.wait_for("grub>");
    pc.wait_until_still();
    for viewer in [&mut good, &mut late] {
        viewer.look();
        assert!(ppm(viewer) == screen(&pc).to_ppm());
    }
    drop((talkers, entered));
    pc.finish();
}

#[test]
fn vncdotool_captures_the_screen_and_types() {
    let installed = Command::new("vncdo").arg("--version").output().is_ok_and(|output| output.status.success());
    if !installed {
        eprintln!("skipped: vncdo is missing; `pip install vncdotool` installs it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some((mut pc, port)) = grub(folder.path(), "") else { return };
    let vncdo = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["120", "vncdo", "-s", &format!("127.0.0.1::{port}")]).args(arguments);
        support::output(&mut command);
    };
    vncdo(&["type", "c"]);
    pc.wait_for("grub>");
    vncdo(&["type", "halt"]);
    pc.wait_for("grub> halt");
    pc.wait_until_still();
    let file: PathBuf = folder.path().join("captured.png");
    vncdo(&["capture", file.to_str().unwrap()]);
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    let screen = screen(&pc);
    assert_eq!((frame.width, frame.height), (screen.width(), screen.height()));
    assert!(screen.to_ppm().ends_with(&pixels[..frame.buffer_size()]), "vncdotool sees what the monitor does");
    pc.finish();
}
