//! A VNC viewer of a few lines, which trusts the server and panics where it errs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::respond;
use super::rfb_decoder::{Area, Decoder, Format};

pub(crate) const COPY_RECT: i32 = 1;
pub(crate) const RAW: i32 = 0;
pub(crate) const HEXTILE: i32 = 5;
pub(crate) const ZLIB: i32 = 6;
pub(crate) const TIGHT: i32 = 7;
pub(crate) const ZRLE: i32 = 16;
const DESKTOP_SIZE: i32 = -223;

/// What carries a viewer's bytes.
pub(crate) trait Carrier: Read + Write {}
impl<T: Read + Write> Carrier for T {}

/// A connected viewer.
pub(crate) struct Viewer {
    stream: Box<dyn Carrier>,
    pub(crate) picture: Decoder,
    /// Pixels that were copied within the picture.
    pub(crate) copied: usize,
    /// The server's name for what it shows.
    pub(crate) name: String,
}

pub(crate) fn read<const N: usize>(stream: &mut impl Read) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("the server answers");
    bytes
}

/// Connects and agrees on version 3.8 and a security type. Returns the server's refusal, if it is one.
pub(crate) fn enter(port: u16, password: Option<&str>) -> Result<TcpStream, String> {
    enter_by(connect(port), password)
}

/// Connects.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream
}

/// As [`enter`], over what carries the bytes.
pub(crate) fn enter_by<S: Carrier>(mut stream: S, password: Option<&str>) -> Result<S, String> {
    assert_eq!(&read::<12>(&mut stream), b"RFB 003.008\n");
    stream.write_all(b"RFB 003.008\n").unwrap();
    let kind = if password.is_some() { 2 } else { 1 };
    assert_eq!(read::<2>(&mut stream), [1, kind]);
    stream.write_all(&[kind]).unwrap();
    prove(stream, password)
}

/// Proves to know the password, if it has one, and hears what comes of it.
pub(crate) fn prove<S: Carrier>(mut stream: S, password: Option<&str>) -> Result<S, String> {
    if let Some(password) = password {
        let challenge = read::<16>(&mut stream);
        stream.write_all(&respond(password.as_bytes(), challenge)).unwrap();
    }
    if read::<4>(&mut stream) == [0; 4] {
        return Ok(stream);
    }
    let mut why = vec![0; u32::from_be_bytes(read(&mut stream)) as usize];
    stream.read_exact(&mut why).unwrap();
    Err(String::from_utf8(why).unwrap())
}

impl Viewer {
    /// A viewer that wants this encoding.
    pub(crate) fn connect(port: u16, password: Option<&str>, shared: bool, encoding: i32) -> Self {
        Self::begin(enter(port, password).expect("it is let in"), shared, &[encoding])
    }

    /// A viewer that has been let in.
    pub(crate) fn begin(mut stream: impl Carrier + 'static, shared: bool, encodings: &[i32]) -> Self {
        stream.write_all(&[u8::from(shared)]).unwrap();
        let init = read::<24>(&mut stream);
        let number = |at| usize::from(u16::from_be_bytes([init[at], init[at + 1]]));
        let mut name = vec![0; number(22)];
        stream.read_exact(&mut name).unwrap();
        let mut message = vec![2, 0, 0, encodings.len() as u8 + 1];
        message.extend(encodings.iter().chain(&[DESKTOP_SIZE]).flat_map(|number| number.to_be_bytes()));
        stream.write_all(&message).unwrap();
        Self {
            stream: Box::new(stream),
            picture: Decoder::new(Format::TRUE, number(0), number(2)),
            copied: 0,
            name: String::from_utf8(name).unwrap(),
        }
    }

    pub(crate) fn request(&mut self, incremental: bool) {
        let [width, height] = [self.picture.width, self.picture.height].map(|len| (len as u16).to_be_bytes());
        let area = [&[3, u8::from(incremental), 0, 0, 0, 0][..], &width, &height].concat();
        self.stream.write_all(&area).unwrap();
    }

    /// Reads one update; how many rectangles with pixels it had.
    pub(crate) fn update(&mut self) -> usize {
        let [kind, _, high, low] = read(&mut self.stream);
        assert_eq!(kind, 0, "an update");
        let mut rects = 0;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let header = read::<12>(&mut self.stream);
            let number = |at| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
            let area = Area { x: number(0), y: number(2), width: number(4), height: number(6) };
            match i32::from_be_bytes([header[8], header[9], header[10], header[11]]) {
                DESKTOP_SIZE => {
                    (self.picture.width, self.picture.height) = (area.width, area.height);
                    self.picture.pixels = vec![0; area.width * area.height];
                }
                COPY_RECT => {
                    rects += 1;
                    self.copied += area.width * area.height;
                    let from = read::<4>(&mut self.stream);
                    let [x, y] = [[from[0], from[1]], [from[2], from[3]]].map(|at| usize::from(u16::from_be_bytes(at)));
                    self.picture.copy(area, x, y);
                }
                encoding => {
                    rects += 1;
                    self.picture.rect(encoding, area, &mut self.stream);
                }
            }
        }
        rects
    }

    /// Asks for the whole screen until it has it.
    pub(crate) fn look(&mut self) {
        self.request(false);
        while self.update() == 0 {
            self.request(false);
        }
    }

    /// Presses a key of a US keyboard that needs no shift, and lets it go.
    pub(crate) fn press(&mut self, character: char) {
        self.key(character.into(), true);
        self.key(character.into(), false);
    }

    fn key(&mut self, keysym: u32, down: bool) {
        let message = [&[4, u8::from(down), 0, 0][..], &keysym.to_be_bytes()].concat();
        self.stream.write_all(&message).unwrap();
    }

    /// Types on a US keyboard, as a person does: shift is held where it has to be.
    pub(crate) fn type_text(&mut self, text: &str) {
        const SHIFT: u32 = 0xffe1;
        for character in text.chars() {
            let shifted = character.is_ascii_uppercase() || "!@#$%^&*()_+{}:\"|<>?~".contains(character);
            let keysym = if character == '\n' { 0xff0d } else { u32::from(character) };
            if shifted {
                self.key(SHIFT, true);
            }
            self.key(keysym, true);
            self.key(keysym, false);
            if shifted {
                self.key(SHIFT, false);
            }
            // A PC keyboard has room for a few keys, and firmware reads one at a time.
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Whether the server has hung up.
    pub(crate) fn is_gone(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 65536]), Ok(0) | Err(_))
    }
}
