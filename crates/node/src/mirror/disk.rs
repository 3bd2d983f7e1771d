//! The local disk and the metadata file, behind threads: operations go in, completions come out. Their order is the
//! engine's business; a completion is sent only when the operation is done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use ferro_block::{Storage, WriteFlags, ZeroFlags};
use ferro_mirror::wire::Payload;
use ferro_mirror::{DataOp, DiskError, Input, MetaOp};

use super::Error;
use super::owner::Inbox;

/// Threads that serve the disk: enough to keep a queue in front of it.
const THREADS: usize = 8;

/// The threads end when this is dropped and what was submitted is done.
pub(crate) struct Disks {
    data: Sender<(u64, DataOp)>,
    meta: Sender<(u64, MetaOp)>,
    /// Bytes of writes submitted and not done.
    pub(crate) writing: Arc<AtomicU64>,
}

fn weight(request: &DataOp) -> u64 {
    match request {
        DataOp::Write { payload: Payload::Data(bytes), .. } => bytes.len() as u64,
        _ => 0,
    }
}

impl Disks {
    pub(crate) fn start(storage: &Arc<dyn Storage>, metadata: File, inbox: &Inbox) -> Result<Self, Error> {
        let (data, operations) = channel();
        let operations = Arc::new(Mutex::new(operations));
        let writing = Arc::new(AtomicU64::new(0));
        for _ in 0..THREADS {
            let (storage, operations, inbox) = (Arc::clone(storage), Arc::clone(&operations), inbox.clone());
            let writing = Arc::clone(&writing);
            super::thread("mirror-disk", move || serve_data(&*storage, &operations, &inbox, &writing))?;
        }
        let (meta, operations) = channel();
        let inbox = inbox.clone();
        super::thread("mirror-meta", move || serve_metadata(&metadata, &operations, &inbox))?;
        Ok(Self { data, meta, writing })
    }

    pub(crate) fn data(&self, op: u64, request: DataOp) {
        self.writing.fetch_add(weight(&request), Ordering::Relaxed);
        // The threads live as long as this does.
        let _ = self.data.send((op, request));
    }

    pub(crate) fn meta(&self, op: u64, request: MetaOp) {
        let _ = self.meta.send((op, request));
    }
}

fn serve_data(storage: &dyn Storage, operations: &Mutex<Receiver<(u64, DataOp)>>, inbox: &Inbox, writing: &AtomicU64) {
    loop {
        let next = operations.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((op, request)) = next else { return };
        let result = perform(storage, &request).map_err(|error| {
            tracing::error!("the local disk failed: {error}");
            DiskError
        });
        writing.fetch_sub(weight(&request), Ordering::Relaxed);
        if !inbox.engine(Input::DataDone { op, result }) {
            return;
        }
    }
}

fn perform(storage: &dyn Storage, request: &DataOp) -> ferro_block::Result<Arc<[u8]>> {
    match request {
        DataOp::Read { offset, length } => {
            let mut bytes = vec![0; usize::try_from(*length).unwrap_or(usize::MAX)];
            storage.read_at(&mut bytes, *offset)?;
            return Ok(bytes.into());
        }
        DataOp::Write { offset, payload: Payload::Data(bytes) } => {
            storage.write_vectored_at(&[std::io::IoSlice::new(bytes)], *offset, WriteFlags::default())?;
        }
        DataOp::Write { offset, payload: Payload::Zeroes { length, unmap } } => {
            let flags = ZeroFlags { may_unmap: *unmap, ..ZeroFlags::default() };
            storage.write_zeroes(*offset, *length, flags)?;
        }
        DataOp::Flush => storage.flush()?,
    }
    Ok([].into())
}

fn serve_metadata(file: &File, operations: &Receiver<(u64, MetaOp)>, inbox: &Inbox) {
    while let Ok((op, request)) = operations.recv() {
        let done = match request {
            MetaOp::Write { offset, bytes } => file.write_all_at(&bytes, offset),
            MetaOp::Flush => file.sync_data(),
        };
        let result = done.map_err(|error| {
            tracing::error!("the mirror's metadata can't be written: {error}");
            DiskError
        });
        if !inbox.engine(Input::MetaDone { op, result }) {
            return;
        }
    }
}
