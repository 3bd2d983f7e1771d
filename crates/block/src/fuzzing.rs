//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time
//! and memory. Not part of the library's interface.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::crypto::Luks;
use crate::nbd::{Address, Export, NbdStorage, Server, Socket, Transport};
use crate::qcow2::{Files, NewSnapshot, OpenOptions, Qcow2, Repair, probe};
use crate::{MemoryStorage, Storage};

/// How much of a disk is read or written.
const SPAN: u64 = 1 << 20;

fn files(file: &Arc<dyn Storage>) -> Files {
    Files { file: Arc::clone(file), data_file: None, backing: None }
}

/// The beginning of an image.
pub fn qcow2_header(bytes: &[u8]) {
    let _ = probe(&MemoryStorage::from_bytes(bytes.to_vec()));
}

/// A whole image: opened, checked, read, and if it can be, written, snapshotted and repaired.
pub fn qcow2_open(bytes: &[u8]) {
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes.to_vec()));
    let reading = OpenOptions { read_only: true, for_check: true, ..OpenOptions::default() };
    if let Ok(image) = Qcow2::open(files(&file), &reading) {
        let _ = image.check(Repair::None);
        let _ = image.info();
        let mut buffer = vec![0; SPAN.min(image.size()) as usize];
        let _ = image.read_at(&mut buffer, 0);
        let _ = image.extent_at(0, image.size().max(1));
        for snapshot in image.snapshots().iter().take(4) {
            let _ = image.open_snapshot(&snapshot.id).map(|view| view.read_at(&mut [0; 512], 0));
        }
    }
    if let Ok(image) = Qcow2::open(files(&file), &OpenOptions::default()) {
        let _ = image.write_at(&[1; 3000], 0);
        let _ = image.snapshot_create(&NewSnapshot::default());
        let _ = image.check(Repair::All);
        let _ = image.close();
    }
}

/// An L2 table of an image with clusters of 512 bytes; the first byte chooses the kind of entry.
pub fn qcow2_l2(bytes: &[u8]) {
    crate::qcow2::fuzz_l2_table(bytes);
}

/// A snapshot table; the first byte is the number of entries.
pub fn qcow2_snapshots(bytes: &[u8]) {
    crate::qcow2::fuzz_snapshot_table(bytes);
}

/// A LUKS header.
pub fn luks_header(bytes: &[u8]) {
    let _ = Luks::parse(bytes).map(|luks| luks.info());
}

/// What a client sends to an NBD server, from its first byte on.
pub fn nbd_server(bytes: &[u8]) {
    let Ok((mut ours, theirs)) = UnixStream::pair() else { return };
    let Ok(mut replies) = ours.try_clone() else { return };
    let storage = Arc::new(MemoryStorage::new(1 << 20));
    let export = Export { name: "disk".into(), description: "d".into(), storage, read_only: false };
    let server = Server::new(vec![export], 1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Replies are taken as they come, or the server would wait for room.
            let mut sink = vec![0; 64 << 10];
            while replies.read(&mut sink).is_ok_and(|count| count > 0) {}
        });
        scope.spawn(move || {
            // The server may hang up before all is written.
            let _ = std::io::Write::write_all(&mut ours, bytes);
            let _ = ours.shutdown(Shutdown::Write);
        });
        let socket = Arc::new(Socket::Unix(theirs));
        let _ = server.serve(&socket);
        socket.shut_down();
    });
}

/// What a server sends to an NBD client, from its first byte on.
pub fn nbd_client(bytes: &[u8]) {
    let Ok((mut server, client)) = UnixStream::pair() else { return };
    let Ok(mut requests) = server.try_clone() else { return };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = std::io::Write::write_all(&mut server, bytes);
            let _ = server.shutdown(Shutdown::Write);
        });
        scope.spawn(move || {
            let mut sink = vec![0; 64 << 10];
            while requests.read(&mut sink).is_ok_and(|count| count > 0) {}
        });
        // An address at which nobody listens: what is lost stays lost.
        let address = Address { transport: Transport::Unix("/nonexistent/socket".into()), export: "disk".into() };
        if let Ok(export) = NbdStorage::on_socket(Socket::Unix(client), address, false) {
            let _ = export.read_at(&mut [0; 512], 0);
            let _ = export.extent_at(0, export.size().clamp(1, SPAN));
            let _ = export.read_at(&mut [0; 512], 512);
        }
    });
}
