//! Clones of disks with known bytes.

use ferro_block::image::{CreateRequest, Format, Image, ImageSpec, KeyValues, OpenMode, Secrets, create, open};

use super::*;

const INFRA: &str = "name = \"x\"\n# A comment that stays.\n[[vm]]\nname = \"web\"\nmemory = \"256M\"\nvnc = \":1\"\n\
                     firmware = \"bios.bin\"\n[[vm.disk]]\nfile = \"web.qcow2\"\n[[vm.disk]]\nfile = \"tools.iso\"\n\
                     media = \"cdrom\"\n[[vm.net]]\nuser = \"dns=10.0.2.3,hostfwd=tcp::80-:80\"\nmac = \"52:54:00:00:00:01\"\n\
                     [[segment]]\nname = \"dmz\"\nsubnet = \"10.77.1.0/24\"\n";
const SIZE: u64 = 1 << 20;

fn image(path: &Path, mode: OpenMode) -> Result<Image, ferro_block::Error> {
    open(&ImageSpec::from_name(&path.display().to_string(), None)?, mode, &Secrets::default())
}

fn write(path: &Path, offset: u64, byte: u8) {
    let image = image(path, OpenMode::WRITE).unwrap();
    image.storage.write_at(&[byte; 512], offset).unwrap();
    image.close().unwrap();
}

fn read(path: &Path, offset: u64) -> u8 {
    let mut bytes = [0; 512];
    image(path, OpenMode::READ).unwrap().storage.read_at(&mut bytes, offset).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

/// A folder with a disk of this format.
fn folder(format: Format) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.qcow2");
    let spec = ImageSpec::from_name(&path.display().to_string(), Some(format)).unwrap();
    let request = CreateRequest { spec, format, size: SIZE, options: KeyValues::default() };
    create(&request, &Secrets::default()).unwrap();
    write(&path, 0, 1);
    folder
}

fn planned(folder: &Path, text: &str, name: &str, way: Way) -> Result<Plan, CloneError> {
    plan(text, Path::new("infra.toml"), folder, ("web", name), way)
}

#[test]
fn the_entry_has_what_both_can_have() {
    let plan = planned(Path::new("/srv"), INFRA, "copy", Way::Linked).unwrap();
    let text = appended(INFRA, &plan.entry);
    assert!(text.starts_with(INFRA) && plan.entry.starts_with("[[vm]]\nname = \"copy\"\n"), "{text}");
    let infra = Infra::parse(&text, Path::new("infra.toml"), Path::new("/srv")).unwrap();
    let copy = &infra.vms[1].description;
    assert_eq!(copy["firmware"].as_str(), Some("/srv/bios.bin"));
    let disks: Vec<&Table> = crate::infra::tables(copy, "disk").collect();
    assert_eq!((disks[0]["file"].as_str(), disks[0]["format"].as_str()), (Some("/srv/copy.qcow2"), Some("qcow2")));
    assert_eq!(disks[1]["file"].as_str(), Some("/srv/tools.iso"));
    let net = crate::infra::tables(copy, "net").next().unwrap();
    assert_eq!((net["user"].as_str(), net.get("mac")), (Some("dns=10.0.2.3"), None));
    assert_eq!(plan.left_out, ["net.mac", "net.user's hostfwd", "vnc"]);
    assert!(!copy.contains_key("vnc"));
    assert_eq!(renamed(Path::new("a/data.raw"), "web", "copy"), Path::new("a/copy-data.qcow2"));
}

#[test]
fn what_cannot_be_cloned_is_refused_before_anything_is_done() {
    let mirrored = INFRA.replace("file = \"web.qcow2\"", "mirror = \"web\"")
        + "[[mirror]]\nname = \"web\"\nsize = \"1M\"\nport = 7801\n";
    for (text, name, words) in [
        (INFRA.to_owned(), "web", "declared twice"),
        (INFRA.to_owned(), "../x", "letters, digits"),
        (INFRA.replace("\"web\"", "\"mail\""), "copy", "no VM 'web'"),
        (INFRA.replace("web.qcow2", "nbd://host/web"), "copy", "no file"),
        (mirrored, "copy", "the mirror 'web'"),
    ] {
        let complaint = planned(Path::new("/srv"), &text, name, Way::Linked).unwrap_err().to_string();
        assert!(complaint.contains(words), "{text}: {complaint}");
    }
}

#[test]
fn linked_clones_share_a_base_and_nothing_else() {
    for format in [Format::Qcow2, Format::Raw] {
        let folder = folder(format);
        let at = |name: &str| folder.path().join(name);
        planned(folder.path(), INFRA, "copy", Way::Linked).unwrap().make().unwrap();
        planned(folder.path(), INFRA, "third", Way::Linked).unwrap().make().unwrap();
        write(&at("web.qcow2"), 512, 2);
        write(&at("copy.qcow2"), 512, 3);
        for (name, byte) in [("web.qcow2", 2), ("copy.qcow2", 3), ("third.qcow2", 0), ("web.base-1.qcow2", 0)] {
            assert_eq!((read(&at(name), 0), read(&at(name), 512)), (1, byte), "{name}");
        }
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        let names = ["copy.qcow2", "third.qcow2", "web.base-1.qcow2", "web.base-2.qcow2", "web.qcow2"];
        assert_eq!(files, names);
        // They move together.
        let elsewhere = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::rename(at(name), elsewhere.path().join(name)).unwrap();
        }
        assert_eq!(read(&elsewhere.path().join("copy.qcow2"), 512), 3);
    }
}

#[test]
fn full_clones_share_nothing() {
    let folder = folder(Format::Qcow2);
    let at = |name: &str| folder.path().join(name);
    let web = image(&at("web.qcow2"), OpenMode::WRITE).unwrap();
    let snapshot = ferro_block::qcow2::NewSnapshot { name: "clean".into(), ..Default::default() };
    web.qcow2.as_ref().unwrap().snapshot_create(&snapshot).unwrap();
    web.storage.write_at(&[5; 512], 0).unwrap();
    // Somebody writes: only the snapshot can be had.
    let full = |name: &str, snapshot: Option<&str>| {
        planned(folder.path(), INFRA, name, Way::Full(snapshot.map(str::to_owned))).unwrap().make()
    };
    let complaint = full("copy", None).unwrap_err().to_string();
    assert!(complaint.contains("has to be stopped"), "{complaint}");
    full("old", Some("clean")).unwrap();
    web.close().unwrap();
    full("copy", None).unwrap();
    std::fs::remove_file(at("web.qcow2")).unwrap();
    assert_eq!((read(&at("copy.qcow2"), 0), read(&at("old.qcow2"), 0)), (5, 1));
}

#[test]
fn a_raw_disk_in_use_is_not_cloned() {
    let folder = folder(Format::Raw);
    let running = image(&folder.path().join("web.qcow2"), OpenMode::WRITE).unwrap();
    for way in [Way::Linked, Way::Full(None)] {
        let complaint = planned(folder.path(), INFRA, "copy", way).unwrap().make().unwrap_err().to_string();
        assert!(complaint.contains("has to be stopped"), "{complaint}");
    }
    running.close().unwrap();
    planned(folder.path(), INFRA, "copy", Way::Full(None)).unwrap().make().unwrap();
    assert_eq!(read(&folder.path().join("copy.qcow2"), 0), 1);
}

#[test]
fn a_clone_that_fails_leaves_the_source_as_it_was() {
    let folder = folder(Format::Qcow2);
    let at = |name: &str| folder.path().join(name);
    let before = std::fs::read(at("web.qcow2")).unwrap();
    let linked = |text: &str| planned(folder.path(), text, "copy", Way::Linked).unwrap().make().unwrap_err();
    std::fs::write(at("copy.qcow2"), "precious").unwrap();
    assert!(matches!(linked(INFRA), CloneError::Exists(_)));
    assert_eq!(std::fs::read(at("copy.qcow2")).unwrap(), b"precious");
    std::fs::remove_file(at("copy.qcow2")).unwrap();

    let running = image(&at("web.qcow2"), OpenMode::WRITE).unwrap();
    assert!(linked(INFRA).to_string().contains("has to be stopped"));
    running.close().unwrap();

    let raw = INFRA.replace("file = \"web.qcow2\"", "file = \"web.qcow2\"\nformat = \"raw\"");
    assert!(matches!(linked(&raw), CloneError::Format(..)));
    // The second of two disks isn't there.
    let two = INFRA.replace("file = \"tools.iso\"\nmedia = \"cdrom\"", "file = \"data.qcow2\"");
    assert!(matches!(linked(&two), CloneError::File(..)));
    assert!(!at("copy.qcow2").exists());
    assert_eq!(read(&at("web.qcow2"), 0), 1);
    assert_eq!(std::fs::read(at("web.base-1.qcow2")).unwrap(), before);

    let web = image(&at("web.qcow2"), OpenMode::WRITE).unwrap();
    let snapshot = ferro_block::qcow2::NewSnapshot { name: "clean".into(), ..Default::default() };
    web.qcow2.as_ref().unwrap().snapshot_create(&snapshot).unwrap();
    web.close().unwrap();
    assert!(matches!(linked(INFRA), CloneError::Snapshots(_)));
}
