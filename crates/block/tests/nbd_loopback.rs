//! Our NBD client against our server, over both kinds of sockets, and a server that vanishes.

use std::sync::Arc;

use ferro_block::nbd::{Address, Export, Listener, NbdStorage, Server};
use ferro_block::{ExtentKind, FileOptions, FileStorage, MemoryStorage, Storage, WriteFlags, ZeroFlags};

fn export(name: &str, storage: Arc<dyn Storage>, read_only: bool) -> Export {
    Export { name: name.into(), description: "a disk".into(), storage, read_only }
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an NBD address").expect("a good one")
}

#[test]
fn everything_goes_over_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = FileOptions { writable: true, ..FileOptions::default() };
    let file = FileStorage::create(dir.path().join("disk"), 64 << 20, options).expect("a file");
    let server = Server::new(vec![export("disk", Arc::new(file), false)], 8);
    let path = dir.path().join("socket");
    let handle = server.start(Listener::unix(&path).expect("a socket")).expect("a server");
    let text = format!("nbd+unix:///disk?socket={}", path.display());
    let client = NbdStorage::open(address(&text), true).expect("connected");
    assert_eq!(client.size(), 64 << 20);
    let data: Vec<u8> = (0..3_000_000u32).map(|index| ((index * 7) >> 3) as u8).collect();
    client.write_at(&data, 12_345).expect("written");
    let mut back = vec![0; data.len()];
    client.read_at(&mut back, 12_345).expect("read");
    assert!(back == data);
    client.write_zeroes(1 << 20, 1 << 20, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).expect("zeroed");
    client.read_at(&mut back[..1 << 20], 1 << 20).expect("read");
    assert!(back[..1 << 20].iter().all(|&byte| byte == 0));
    let hole = client.extent_at(1 << 20, 1 << 20).expect("an extent");
    assert_eq!((hole.kind, hole.len), (ExtentKind::Zero { allocated: false }, 1 << 20));
    assert_eq!(client.extent_at(2 << 20, 4096).expect("an extent").kind, ExtentKind::Data);
    client.write_vectored_at(&[std::io::IoSlice::new(&[1; 512])], 0, WriteFlags { fua: true }).expect("written");
    client.discard(0, 4096).expect("discarded");
    client.flush().expect("flushed");
    assert!(client.read_at(&mut [0; 512], 64 << 20).is_err());
    // Many threads at once, each checking its own part.
    std::thread::scope(|scope| {
        for part in 0..8u64 {
            let client = &client;
            scope.spawn(move || {
                let base = part * (8 << 20);
                for round in 0..50u64 {
                    let pattern = vec![(part * 50 + round) as u8; 20_000];
                    client.write_at(&pattern, base + round * 20_000).expect("written");
                    let mut back = vec![0; 20_000];
                    client.read_at(&mut back, base + round * 20_000).expect("read");
                    assert!(back == pattern);
                }
            });
        }
    });
    drop(client);
    drop(handle);
    assert!(!path.exists(), "the socket is gone with the server");
}

#[test]
fn a_read_only_export_refuses_writers_and_unknown_names_are_told() {
    let server = Server::new(vec![export("", Arc::new(MemoryStorage::new(1 << 20)), true)], 8);
    let handle = server.start(Listener::tcp("127.0.0.1:0").expect("a port")).expect("a server");
    let port = handle.port().expect("a port");
    let text = format!("nbd://127.0.0.1:{port}");
    assert!(NbdStorage::open(address(&text), true).is_err());
    let error = NbdStorage::open(address(&format!("{text}/nothing")), false).expect_err("no such export");
    assert!(error.to_string().contains("no export 'nothing'"), "{error}");
    let client = NbdStorage::open(address(&text), false).expect("connected");
    client.read_at(&mut [0; 4096], 0).expect("read");
    assert!(client.write_at(&[1], 0).is_err());
}

#[test]
fn a_lost_connection_is_an_error_and_never_a_silent_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("socket");
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(1 << 20));
    let server = Server::new(vec![export("", Arc::clone(&storage), false)], 8);
    let handle = server.start(Listener::unix(&path).expect("a socket")).expect("a server");
    let text = format!("nbd+unix:///?socket={}", path.display());
    let reader = NbdStorage::open(address(&text), false).expect("connected");
    let writer = NbdStorage::open(address(&text), true).expect("connected");
    writer.write_at(&[7; 512], 0).expect("written");
    drop(handle);
    assert!(writer.write_at(&[8; 512], 0).is_err());
    assert!(writer.flush().is_err(), "writes that were not flushed may be lost");
    let server = Server::new(vec![export("", storage, false)], 8);
    let _handle = server.start(Listener::unix(&path).expect("a socket")).expect("a server");
    let mut back = [0; 512];
    reader.read_at(&mut back, 0).expect("a reader connects again");
    assert_eq!(back, [7; 512]);
    assert!(writer.flush().is_err(), "a new connection does not bring lost writes back");
}

#[test]
fn clients_beyond_the_limit_are_turned_away() {
    let server = Server::new(vec![export("", Arc::new(MemoryStorage::new(4096)), false)], 1);
    let handle = server.start(Listener::tcp("127.0.0.1:0").expect("a port")).expect("a server");
    let text = format!("nbd://127.0.0.1:{}/", handle.port().expect("a port"));
    let first = NbdStorage::open(address(&text), false).expect("connected");
    assert!(NbdStorage::open(address(&text), false).is_err());
    first.read_at(&mut [0; 512], 0).expect("the first is served on");
}
