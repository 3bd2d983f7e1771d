//! RAM as records of the stream: pages of zeros aren't written, pages equal to one before are written as a reference, the
//! rest is compressed, in chunks of a megabyte and by several threads. Loading puts it back. The records' checksums and
//! places are not known here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use ferro_guest::{PAGE_SIZE, Ram, StateReader, StateWriter};

use super::{Progress, StateError};
use crate::bus::lock;

/// Pages in a chunk at most.
const CHUNK_PAGES: usize = 256;
/// Runs in a chunk at most: a chunk of pages that are all alone, and as many references between them.
const MAX_RUNS: usize = 2 * CHUNK_PAGES;
/// One of zstd's fast levels: the VM stands still meanwhile. On the memory of a Linux, half text and half noise, level 1 took half as
/// long again for 8 per cent fewer bytes; faster levels gain next to nothing and lose half of what is saved.
const LEVEL: i32 = -5;
/// Chunks on their way at once.
const IN_FLIGHT: usize = 8;
/// Entries of the table in which equal pages are found; a power of two.
const KNOWN_PAGES: usize = 1 << 16;

/// What the pages of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// In the chunk's data, one after the other.
    Data,
    /// Zeros.
    Zero,
    /// The same as those from this page on, which came before.
    Copy(u64),
}

/// Pages that lie one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    content: Content,
}

/// A record of memory, taken apart.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    runs: Vec<Run>,
    compressed: bool,
    /// Bytes of data, once they are expanded.
    len: usize,
    data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads a record's body, for a VM with so many pages. `Err` says what is wrong with it.
    pub(super) fn decode(body: &'a [u8], pages: u64) -> Result<Self, &'static str> {
        const SHORT: &str = "a record of memory makes no sense";
        let mut from = StateReader::new(body);
        let compressed = from.bool().map_err(|_| SHORT)?;
        let count = from.u32().map_err(|_| SHORT)? as usize;
        if count > MAX_RUNS {
            return Err("a record of memory has too many runs");
        }
        let mut runs = Vec::with_capacity(count);
        let mut data_pages = 0;
        for _ in 0..count {
            let mut number = || from.u64().map_err(|_| SHORT);
            let (first, count, kind, source) = (number()?, number()?, number()?, number()?);
            let inside = |first: u64| first.checked_add(count).is_some_and(|end| end <= pages);
            let content = match kind {
                0 => Content::Data,
                1 => Content::Zero,
                2 if inside(source) => Content::Copy(source),
                _ => return Err(SHORT),
            };
            if count == 0 || !inside(first) {
                return Err("a record of memory is of pages that there aren't");
            }
            if content == Content::Data {
                data_pages += count;
            }
            if data_pages > CHUNK_PAGES as u64 {
                return Err("a record of memory has too many pages");
            }
            runs.push(Run { first, count, content });
        }
        let data = from.bytes().map_err(|_| SHORT)?;
        let len = data_pages as usize * PAGE_SIZE;
        if from.finish().is_err() || !compressed && data.len() != len {
            return Err(SHORT);
        }
        Ok(Self { runs, compressed, len, data })
    }
}

impl Chunk<'_> {
    /// Bytes of memory that it is about.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.count * PAGE_SIZE as u64).sum()
    }
}

/// A chunk that is being put together.
#[derive(Default)]
struct Draft {
    runs: Vec<Run>,
    data: Vec<u8>,
}

impl Draft {
    /// Adds a page, to the last run if it continues that.
    fn add(&mut self, page: u64, content: Content) {
        if let Some(last) = self.runs.last_mut()
            && last.first + last.count == page
        {
            let continues = match (last.content, content) {
                (Content::Copy(from), Content::Copy(source)) => from + last.count == source,
                (last, content) => last == content,
            };
            if continues {
                last.count += 1;
                return;
            }
        }
        self.runs.push(Run { first: page, count: 1, content });
    }

    fn is_full(&self) -> bool {
        self.data.len() >= CHUNK_PAGES * PAGE_SIZE || self.runs.len() >= MAX_RUNS
    }

    /// The record's body.
    fn encode(&self, compressor: &mut zstd::bulk::Compressor<'_>) -> io::Result<Vec<u8>> {
        let compressed = compressor.compress(&self.data)?;
        let smaller = compressed.len() < self.data.len();
        let mut into = StateWriter::new();
        into.bool(smaller);
        into.u32(self.runs.len() as u32);
        for run in &self.runs {
            let (kind, source) = match run.content {
                Content::Data => (0, 0),
                Content::Zero => (1, 0),
                Content::Copy(source) => (2, source),
            };
            [run.first, run.count, kind, source].into_iter().for_each(|number| into.u64(number));
        }
        into.bytes(if smaller { &compressed } else { &self.data });
        Ok(into.finish())
    }
}

/// Pages that were seen, by their checksum: a later one that is equal needs no bytes. Of pages that share a place in the
/// table the last one is known.
struct KnownPages {
    pages: Vec<Option<u32>>,
    other: Vec<u8>,
}

impl KnownPages {
    fn new() -> Self {
        Self { pages: vec![None; KNOWN_PAGES], other: vec![0; PAGE_SIZE] }
    }

    /// An earlier page with these contents; remembers this one if there is none.
    fn find(&mut self, ram: &Ram, page: u64, contents: &[u8]) -> Option<u64> {
        let place = &mut self.pages[crc32c::crc32c(contents) as usize & (KNOWN_PAGES - 1)];
        if let Some(known) = *place {
            ram.read(known as usize * PAGE_SIZE, &mut self.other);
            if self.other == contents {
                return Some(u64::from(known));
            }
        }
        *place = u32::try_from(page).ok();
        None
    }
}

/// What Linux's documentation calls pagemap: eight bytes a page of this process, of which bits 62 and 63 say whether it is
/// there. Opened while the process may still do that.
#[derive(Debug)]
pub(super) struct Pagemap(Option<File>);

impl Pagemap {
    /// Where there is none, every page is looked at.
    pub(super) fn open() -> Self {
        Self(File::open("/proc/self/pagemap").ok())
    }
}

/// Which pages the host has given a place: the others are zeros, and looking at them would give them one.
struct Touched<'a> {
    map: &'a Pagemap,
    first: u64,
    entries: Vec<u8>,
}

impl<'a> Touched<'a> {
    fn new(ram: &Ram, map: &'a Pagemap) -> Self {
        let first = (ram.host_address() as usize / PAGE_SIZE) as u64;
        Self { map, first, entries: vec![0xff; 8 * CHUNK_PAGES] }
    }

    /// Looks at the pages from this one on, a chunk's worth at most.
    fn look(&mut self, page: usize, count: usize) {
        let entries = &mut self.entries[..8 * count];
        let read = self.map.0.as_ref().map(|map| map.read_exact_at(entries, 8 * (self.first + page as u64)));
        if !matches!(read, Some(Ok(()))) {
            entries.fill(0xff);
        }
    }

    /// Whether the page with this place among them may hold anything.
    fn any(&self, index: usize) -> bool {
        self.entries[8 * index + 7] & 0xc0 != 0
    }
}

/// Calls `chunk` with every chunk of the memory, in order. Nothing writes to the memory meanwhile.
fn scan(
    ram: &Ram,
    map: &Pagemap,
    progress: &Progress,
    mut chunk: impl FnMut(Draft) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let mut known = KnownPages::new();
    let mut draft = Draft::default();
    let mut buffer = vec![0; CHUNK_PAGES * PAGE_SIZE];
    let mut touched = Touched::new(ram, map);
    progress.begin(ram.len() as u64);
    for start in (0..ram.len()).step_by(buffer.len()) {
        let part = &mut buffer[..(ram.len() - start).min(CHUNK_PAGES * PAGE_SIZE)];
        touched.look(start / PAGE_SIZE, part.len() / PAGE_SIZE);
        for (index, contents) in part.chunks_mut(PAGE_SIZE).enumerate() {
            if !touched.any(index) {
                continue;
            }
            ram.read(start + index * PAGE_SIZE, contents);
            if ferro_block::jobs::is_zero(contents) {
                continue;
            }
            let contents = &*contents;
            let page = (start / PAGE_SIZE + index) as u64;
            match known.find(ram, page, contents) {
                Some(source) => draft.add(page, Content::Copy(source)),
                None => {
                    draft.add(page, Content::Data);
                    draft.data.extend_from_slice(contents);
                }
            }
            if draft.is_full() {
                chunk(std::mem::take(&mut draft))?;
            }
        }
        progress.advance(part.len() as u64);
    }
    if draft.runs.is_empty() { Ok(()) } else { chunk(draft) }
}

fn compress(drafts: &Mutex<Receiver<(u64, Draft)>>, done: &SyncSender<(u64, io::Result<Vec<u8>>)>) {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL);
    loop {
        let next = lock(drafts).recv();
        let Ok((number, draft)) = next else { return };
        let body = match &mut compressor {
            Ok(compressor) => draft.encode(compressor),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if done.send((number, body)).is_err() {
            return;
        }
    }
}

/// Writes all of a VM's memory: one thread looks at the pages, others compress, and `write` is called in the order of the
/// pages, by this thread.
///
/// # Errors
/// What `write` says.
pub(super) fn save(
    ram: &Ram,
    map: &Pagemap,
    progress: &Progress,
    threads: usize,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), StateError> {
    std::thread::scope(|scope| {
        let (to_compress, drafts) = sync_channel(IN_FLIGHT);
        let (done, finished) = sync_channel(IN_FLIGHT);
        // One token for each chunk on its way, so that none of the queues grows while one chunk takes long.
        let (take, give) = sync_channel(IN_FLIGHT);
        let drafts = Arc::new(Mutex::new(drafts));
        for _ in 0..threads.max(1) {
            let (drafts, done) = (drafts.clone(), done.clone());
            scope.spawn(move || compress(&drafts, &done));
        }
        drop((drafts, done));
        let scanner = scope.spawn(move || {
            let mut number = 0;
            scan(ram, map, progress, |draft| {
                let sent = take.send(()).is_ok() && to_compress.send((number, draft)).is_ok();
                number += 1;
                // Nobody takes it any more: the caller knows why.
                if sent { Ok(()) } else { Err(StateError::Cancelled) }
            })
        });
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut result = Ok(());
        for (number, body) in finished {
            waiting.insert(number, body);
            while let Some(body) = waiting.remove(&next) {
                next += 1;
                result = body.and_then(|body| write(&body));
                // The scanner has ended already if it wanted no more.
                let _ = give.recv();
                if result.is_err() {
                    break;
                }
            }
            if result.is_err() {
                break;
            }
        }
        drop(give);
        let scanned = scanner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result?;
        scanned
    })
}

/// Memory that is being loaded.
pub(super) struct Loader<'a> {
    ram: &'a Ram,
    /// A bit for each page that was loaded.
    loaded: Vec<u64>,
    buffer: Vec<u8>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl<'a> Loader<'a> {
    /// Loads into this memory.
    pub(super) fn new(ram: &'a Ram) -> Self {
        let pages = ram.len() / PAGE_SIZE;
        Self { ram, loaded: vec![0; pages.div_ceil(64)], buffer: vec![], decompressor: None }
    }

    fn mark(&mut self, run: &Run) {
        for page in run.first..run.first + run.count {
            self.loaded[page as usize / 64] |= 1 << (page % 64);
        }
    }

    fn is_loaded(&self, page: u64) -> bool {
        self.loaded[page as usize / 64] >> (page % 64) & 1 != 0
    }

    /// Puts a chunk, decoded for as many pages as there are, where it belongs.
    ///
    /// # Errors
    /// Data that don't expand to what was said, and references to pages that didn't come before.
    pub(super) fn apply(&mut self, chunk: &Chunk<'_>) -> Result<(), StateError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.expand(chunk, &mut buffer).and_then(|()| self.place(chunk, &buffer));
        self.buffer = buffer;
        result
    }

    fn expand(&mut self, chunk: &Chunk<'_>, buffer: &mut Vec<u8>) -> Result<(), StateError> {
        buffer.clear();
        if !chunk.compressed {
            buffer.extend_from_slice(chunk.data);
            return Ok(());
        }
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            empty => empty.insert(zstd::bulk::Decompressor::new()?),
        };
        buffer.reserve(chunk.len);
        let len = decompressor.decompress_to_buffer(chunk.data, buffer);
        if !matches!(len, Ok(len) if len == chunk.len) {
            return Err(StateError::Damaged("pages of memory can't be expanded"));
        }
        Ok(())
    }

    fn place(&mut self, chunk: &Chunk<'_>, data: &[u8]) -> Result<(), StateError> {
        let mut data = data;
        for run in &chunk.runs {
            let (at, len) = (run.first as usize * PAGE_SIZE, run.count as usize * PAGE_SIZE);
            match run.content {
                Content::Data => {
                    let (pages, rest) = data.split_at(len);
                    self.ram.write(at, pages);
                    data = rest;
                }
                Content::Zero => self.zero(at, len)?,
                Content::Copy(source) => {
                    if !(source..source + run.count).all(|page| self.is_loaded(page)) {
                        return Err(StateError::Damaged("a page refers to one that wasn't there before it"));
                    }
                    self.ram.copy(source as usize * PAGE_SIZE, at, len);
                }
            }
            self.mark(run);
        }
        Ok(())
    }

    fn zero(&self, at: usize, len: usize) -> Result<(), StateError> {
        Ok(self.ram.discard(at, len)?)
    }

    /// Clears every page that didn't come.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn finish(self) -> Result<(), StateError> {
        let pages = (self.ram.len() / PAGE_SIZE) as u64;
        let mut page = 0;
        while page < pages {
            let start = page;
            while page < pages && !self.is_loaded(page) {
                page += 1;
            }
            self.zero(start as usize * PAGE_SIZE, (page - start) as usize * PAGE_SIZE)?;
            while page < pages && self.is_loaded(page) {
                page += 1;
            }
        }
        Ok(())
    }
}
