//! The stream by itself: memory of every kind goes through it, damage of every kind is noticed.

use ferro_guest::{PAGE_SIZE, Ram};

use super::format::{Fingerprint, Kind, MAGIC, RECORD_HEAD, Section, VERSION, checksum};
use super::memory::{self, Loader, Pagemap};
use super::reader::{Record, StreamReader};
use super::writer::StreamWriter;
use super::{Progress, StateError, fuzzing};

const SIZE: usize = 1 << 20;

fn fingerprint() -> Fingerprint {
    Fingerprint {
        accelerator: "soft".into(),
        cpu: "a cpu".into(),
        vcpus: 2,
        ram: SIZE as u64,
        rom: 0,
        video: 0,
        chips: vec!["serial@3f8".into()],
    }
}

fn section() -> Section {
    Section { name: "serial@3f8".into(), instance: 0, version: 3, bytes: b"state".to_vec() }
}

/// Memory with pages of every kind: zeros, text, noise, equal ones.
fn some_memory() -> Ram {
    let ram = Ram::new(SIZE as u64).unwrap();
    let mut noise = 1_u64;
    for page in 0..SIZE / PAGE_SIZE {
        let at = page * PAGE_SIZE;
        match page % 5 {
            0 => {}
            1 => ram.fill(at, PAGE_SIZE, 0x5a),
            2 => ram.write(at + 100, format!("this is page {page}").as_bytes()),
            3 => (0..PAGE_SIZE / 8).for_each(|word| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                ram.store(at + 8 * word, noise);
            }),
            _ => ram.copy(3 * PAGE_SIZE, at, PAGE_SIZE),
        }
    }
    ram
}

fn contents(ram: &Ram) -> Vec<u8> {
    let mut bytes = vec![0; ram.len()];
    ram.read(0, &mut bytes);
    bytes
}

fn stream(ram: &Ram, threads: usize) -> Vec<u8> {
    let mut writer = StreamWriter::new(Vec::new(), &fingerprint()).unwrap();
    writer.section(&section()).unwrap();
    memory::save(ram, &Pagemap::open(), &Progress::default(), threads, |body| writer.memory(body)).unwrap();
    writer.finish().unwrap()
}

fn load(bytes: &[u8], ram: &Ram) -> Result<(), StateError> {
    let mut reader = StreamReader::new(bytes)?;
    let mut loader = Loader::new(ram);
    loop {
        match reader.next()? {
            Record::Section(found) => assert_eq!(found, section()),
            Record::Memory(chunk) => loader.apply(&chunk)?,
            Record::End => return loader.finish(),
        }
    }
}

#[test]
fn memory_comes_back_over_whatever_was_there() {
    let ram = some_memory();
    for threads in [1, 2, 5] {
        let bytes = stream(&ram, threads);
        // A fifth is noise, another fifth the same noise once.
        assert!(bytes.len() < SIZE / 3, "{} bytes", bytes.len());
        let other = Ram::new(SIZE as u64).unwrap();
        other.fill(0, SIZE, 0xee);
        load(&bytes, &other).unwrap();
        assert!(contents(&other) == contents(&ram), "{threads} threads");
    }
    assert_eq!(stream(&ram, 1), stream(&ram, 3), "whatever the threads, the same bytes");
}

#[test]
fn empty_memory_takes_next_to_nothing() {
    let ram = Ram::new(SIZE as u64).unwrap();
    let bytes = stream(&ram, 2);
    assert!(bytes.len() < 300);
    let other = some_memory();
    load(&bytes, &other).unwrap();
    assert!(ferro_block::jobs::is_zero(&contents(&other)));
}

#[test]
fn a_writer_that_fails_ends_the_save() {
    let told =
        memory::save(&some_memory(), &Pagemap::open(), &Progress::default(), 2, |_| Err(std::io::Error::other("full")));
    assert!(told.unwrap_err().to_string().contains("full"));
}

#[test]
fn every_end_and_every_flipped_byte_is_noticed() {
    let ram = Ram::new(SIZE as u64).unwrap();
    ram.write(5 * PAGE_SIZE, b"something");
    let bytes = stream(&ram, 1);
    assert!(StreamReader::new(&bytes[..]).unwrap().sections().is_ok());
    for len in 0..bytes.len() {
        let told = StreamReader::new(&bytes[..len]).and_then(StreamReader::sections);
        assert!(told.is_err(), "cut after {len} bytes");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let told = StreamReader::new(&damaged[..]).and_then(StreamReader::sections);
        assert!(told.is_err(), "a wrong byte at {at}");
    }
}

#[test]
fn a_record_that_is_left_out_is_noticed() {
    let bytes = stream(&some_memory(), 1);
    let header = 16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize + 4;
    let len = |at: usize| RECORD_HEAD + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    let mut without = bytes.clone();
    without.drain(header..header + len(header));
    let told = StreamReader::new(&without[..]).unwrap().sections().unwrap_err();
    assert!(told.to_string().contains("records are missing"), "{told}");
}

#[test]
fn a_later_format_is_told_with_its_writer() {
    let mut bytes = stream(&some_memory(), 1);
    bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let end = 16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let sum = crc32c::crc32c(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    match StreamReader::new(&bytes[..]) {
        Err(StateError::Newer { found: 2, known: 1, by }) => assert_eq!(by, env!("CARGO_PKG_VERSION")),
        other => panic!("{:?}", other.map(|_| ()).unwrap_err()),
    }
    for foreign in [&b""[..], b"FERRO", b"QEVM\0\0\0\x03 and more of it"] {
        assert!(matches!(StreamReader::new(foreign), Err(StateError::Foreign)));
    }
}

#[test]
fn other_boards_are_told_by_what_differs() {
    let own = fingerprint();
    let different = |change: fn(&mut Fingerprint), told: &str| {
        let mut saved = own.clone();
        change(&mut saved);
        let error = own.check(&saved).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    };
    different(|saved| saved.ram *= 2, "--memory 2M");
    different(|saved| saved.vcpus = 4, "--cpus 4");
    different(|saved| saved.accelerator = "kvm".into(), "--accel kvm");
    different(|saved| saved.cpu = "another".into(), "'another'");
    different(|saved| saved.rom = 4096, "firmware");
    different(|saved| saved.video = 4096, "VGA");
    different(|saved| saved.chips.push("ide@1.1".into()), "ide@1.1");
    different(|saved| saved.chips.clear(), "lacks serial@3f8");
    assert!(own.check(&own.clone()).is_ok());
}

/// A stream with a record of this kind and body, and right checksums.
fn with_record(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = StreamWriter::new(Vec::new(), &fingerprint()).unwrap().finish().unwrap();
    bytes.truncate(bytes.len() - RECORD_HEAD - 12);
    for word in [kind, body.len() as u32, checksum(kind, body)] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

#[test]
fn impossible_records_are_refused_before_they_take_memory() {
    let memory = |runs: &[[u64; 4]], data: &[u8]| {
        let mut body = vec![0];
        body.extend((runs.len() as u32).to_le_bytes());
        body.extend(runs.iter().flatten().flat_map(|number| number.to_le_bytes()));
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        with_record(Kind::Memory as u32, &body)
    };
    let page = [1; PAGE_SIZE];
    let cases = [
        (with_record(9, b""), "no known kind"),
        (memory(&[[256, 1, 0, 0]], &page), "aren't"),
        (memory(&[[255, 2, 1, 0]], b""), "aren't"),
        (memory(&[[u64::MAX, 2, 1, 0]], b""), "aren't"),
        (memory(&[[0, 0, 1, 0]], b""), "aren't"),
        (memory(&[[0, 1, 2, 256]], b""), "no sense"),
        (memory(&[[0, 1, 3, 0]], b""), "no sense"),
        (memory(&[[0, 2, 0, 0]], &page), "no sense"),
        (memory(&[[0, 256, 0, 0], [0, 1, 0, 0]], &page), "too many pages"),
        (memory(&vec![[0, 1, 1, 0]; 513], b""), "too many runs"),
        (memory(&[[0, 1, 2, 9]], b""), "wasn't there"),
    ];
    for (bytes, told) in cases {
        let ram = Ram::new(SIZE as u64).unwrap();
        let error = load(&bytes, &ram).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let mut long = with_record(Kind::Section as u32, b"");
    let at = long.len() - RECORD_HEAD + 4;
    long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(StreamReader::new(&long[..]).unwrap().sections().unwrap_err().to_string().contains("too long"));
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(u32::MAX.to_le_bytes());
    assert!(StreamReader::new(&header[..]).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        fuzzing::machine_state(&bytes);
        let mut with_magic = MAGIC.to_vec();
        with_magic.extend(VERSION.to_le_bytes());
        with_magic.extend(bytes);
        fuzzing::machine_state(&with_magic);
    }

    #[test]
    fn any_record_is_survived(kind in 0_u32..5, body in proptest::collection::vec(0_u8..4, 0..300)) {
        fuzzing::machine_state(&with_record(kind, &body));
    }
}

/// Replays the corpus of the fuzz target `machine_state`.
#[test]
fn the_corpus_is_survived() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/machine_state");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        fuzzing::machine_state(&std::fs::read(file).unwrap());
    }
}

/// Writes the corpus anew: `cargo test -p ferro-machine -- --ignored write_the_corpus`.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/machine_state");
    std::fs::create_dir_all(&corpus).unwrap();
    let small = Ram::new(SIZE as u64).unwrap();
    for page in [3, 4, 7, 200] {
        small.write(page * PAGE_SIZE, b"something that is here twice");
    }
    small.write(9 * PAGE_SIZE, b"something else");
    let whole = stream(&small, 1);
    let write = |name: &str, bytes: &[u8]| std::fs::write(corpus.join(name), bytes).unwrap();
    write("whole", &whole);
    write("cut", &whole[..whole.len() / 2]);
    write("empty-memory", &stream(&Ram::new(SIZE as u64).unwrap(), 1));
    write(
        "copy-from-nowhere",
        &with_record(
            2,
            &[
                &[0, 1, 0, 0, 0][..],
                &[0; 8],
                &[1, 0, 0, 0, 0, 0, 0, 0],
                &[2, 0, 0, 0, 0, 0, 0, 0],
                &[9, 0, 0, 0, 0, 0, 0, 0],
                &[0; 4],
            ]
            .concat(),
        ),
    );
    write(
        "bad-compression",
        &with_record(
            2,
            &[&[1, 1, 0, 0, 0][..], &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0], &[0; 16], &[5, 0, 0, 0, 1, 2, 3, 4, 5]]
                .concat(),
        ),
    );
    write("unknown-record", &with_record(77, b"what is this"));
    let mut later = whole;
    later[8] = 2;
    write("later", &later);
}
