//! TigerVNC's viewer, by somebody else's hand: shows the screen on an X server in memory, and is typed at.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::channels::make_certificates;
use super::{Pc, grub, screen};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server with its picture in a file.
struct X {
    _server: Running,
    folder: PathBuf,
    display: String,
}

const SIDE: (usize, usize) = (1024, 768);

/// What is missing of the programs that this needs.
fn missing() -> bool {
    let there = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join(program).exists())
    };
    let missing = ["Xvfb", "xdotool", "vncviewer"].into_iter().find(|program| !there(program));
    if let Some(program) = missing {
        eprintln!("skipped: {program} is missing; `cargo xtask packages` installs it");
    }
    missing.is_some()
}

impl X {
    fn start(folder: &Path) -> Self {
        let (number, log) = (folder.join("display"), File::create(folder.join("xvfb.log")).unwrap());
        let mut command = Command::new("sh");
        // The server writes the number of its display to descriptor 3.
        command.args(["-c", "exec Xvfb -displayfd 3 -screen 0 1024x768x24 -nolisten tcp -fbdir \"$0\" 3>\"$1\""]);
        command.arg(folder).arg(&number).stderr(log).stdout(Stdio::null());
        let server = Running(command.spawn().unwrap());
        let display = (0..600).find_map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            std::fs::read_to_string(&number).ok().filter(|text| text.ends_with('\n'))
        });
        let display = format!(":{}", display.expect("an X server starts").trim());
        Self { _server: server, folder: folder.to_owned(), display }
    }

    /// The picture: an XWD file, whose header has its sizes in big-endian words.
    fn picture(&self) -> Vec<u32> {
        let file = std::fs::read(self.folder.join("Xvfb_screen0")).unwrap();
        let word = |at: usize| u32::from_be_bytes(file[at * 4..][..4].try_into().unwrap()) as usize;
        assert_eq!((word(4), word(5), word(7), word(11), word(12)), (SIDE.0, SIDE.1, 0, 32, SIDE.0 * 4));
        let pixels = file[word(0) + word(19) * 12..].chunks_exact(4);
        pixels.map(|pixel| u32::from_le_bytes(pixel.try_into().unwrap()) & 0xff_ffff).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.display).env("HOME", &self.folder).stdout(Stdio::null()).stdin(Stdio::null());
        command
    }

    fn xdotool(&self, arguments: &[&str]) {
        // There may be no window yet: the caller tries again.
        let _ = self.command("xdotool").args(arguments).stderr(Stdio::null()).status().unwrap();
    }

    /// Waits until the VM's screen is seen somewhere in the picture.
    fn wait_for_screen(&self, pc: &Pc) {
        for _ in 0..300 {
            let (picture, screen) = (self.picture(), screen(pc));
            let (width, height) = (screen.width() as usize, screen.height() as usize);
            let row = |y: usize| &screen.pixels()[y * width..][..width];
            let at =
                |x: usize, y: usize| (0..height).all(|line| &picture[(y + line) * SIDE.0 + x..][..width] == row(line));
            let found = width <= SIDE.0
                && height <= SIDE.1
                && (0..=SIDE.1 - height).any(|y| (0..=SIDE.0 - width).any(|x| at(x, y)));
            if found {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the viewer doesn't show the VM's screen; see {}", self.folder.display());
    }
}

/// TigerVNC connects with these options, shows the screen and types at GRUB.
fn views_and_types(folder: &Path, vnc: &str, options: &[&str]) {
    if missing() {
        return;
    }
    let Some((mut pc, port)) = grub(folder, vnc) else { return };
    let x = X::start(folder);
    let mut viewer = x.command("vncviewer");
    viewer.args(["-geometry=+0+0", "-RemoteResize=0", "-NoJPEG=1", "-AlertOnFatalError=0"]).args(options);
    viewer.arg(format!("localhost::{port}")).stderr(File::create(folder.join("viewer.log")).unwrap());
    let _viewer = Running(viewer.spawn().unwrap());
    x.wait_for_screen(&pc);
    // Without a window manager the window gets the keyboard by a click; there may be none at first.
    let focus =
        ["search", "--onlyvisible", "--name", "TigerVNC", "windowfocus", "mousemove", "300", "250", "click", "1"];
    for _ in 0..20 {
        x.xdotool(&focus);
        x.xdotool(&["key", "c"]);
        std::thread::sleep(Duration::from_millis(500));
        if pc.handle.screen().unwrap().contents().unwrap_or_default().join("").contains("grub>") {
            break;
        }
    }
    pc.wait_for("grub>");
    // Whatever was typed too much goes.
    x.xdotool(&["key", "ctrl+u"]);
    x.xdotool(&["type", "--delay", "80", "echo 6*7=$grub_platform"]);
    x.xdotool(&["key", "Return"]);
    pc.wait_for("6*7=pc");
    pc.wait_until_still();
    // GRUB's cursor blinks: the pictures are compared until they are of the same moment.
    x.wait_for_screen(&pc);
    pc.finish();
}

#[test]
fn tigervnc_shows_the_screen_and_types() {
    let folder = tempfile::tempdir().unwrap();
    views_and_types(folder.path(), "", &["-SecurityTypes=None"]);
}

#[test]
fn tigervnc_trusts_our_certificates() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let authority = format!("-X509CA={}", folder.path().join("ca-cert.pem").display());
    let vnc = format!(",tls-creds-dir={}", folder.path().display());
    views_and_types(folder.path(), &vnc, &[&authority, "-SecurityTypes=X509None"]);
}
