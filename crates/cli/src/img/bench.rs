//! `ferro img bench`.

use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::WriteFlags;
use ferro_block::image::{Cache, OpenMode};
use ferro_block::queue::{Operation, Queue, Request};
use ferro_sys::AlignedBuffer;

use super::figures;
use super::source::{Naming, cache, print};

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    naming: Naming,
    /// How many requests
    #[arg(short, value_name = "N", default_value_t = 75_000)]
    count: u64,
    /// How many are under way at a time
    #[arg(short, value_name = "N", default_value_t = 64)]
    depth: usize,
    /// Flush after every so many writes
    #[arg(long, value_name = "N", default_value_t = 0)]
    flush_interval: u64,
    /// Go on while a flush is under way
    #[arg(long)]
    no_drain: bool,
    /// How requests reach the host: io_uring, or threads
    #[arg(short = 'i', value_name = "AIO", default_value = "io_uring", value_parser = ["io_uring", "threads", "native"])]
    aio: String,
    /// The host's asynchronous I/O (accepted for qemu-img's sake)
    #[arg(short = 'n')]
    native: bool,
    /// Begin here
    #[arg(short, value_name = "OFFSET", value_parser = figures::size, default_value = "0")]
    offset: u64,
    /// The byte to write
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    pattern: u8,
    /// Say nothing
    #[arg(short)]
    quiet: bool,
    /// Bytes of a request
    #[arg(short, value_name = "SIZE", value_parser = figures::size, default_value = "4k")]
    size: u64,
    /// Bytes from one request's beginning to the next's
    #[arg(short = 'S', value_name = "SIZE", value_parser = figures::size, default_value = "0")]
    step: u64,
    /// How the image is opened
    #[arg(short = 't', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// Write instead of read
    #[arg(short)]
    write: bool,
    /// Read even if another process writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    filename: String,
}

impl BenchArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.flush_interval > 0 && !self.write {
            bail!("--flush-interval is only available in write tests");
        }
        if self.size == 0 || self.size > 1 << 30 {
            bail!("a request has between 1 byte and 1 GiB");
        }
        let mode =
            OpenMode { writable: self.write, cache: self.cache, force_share: self.force_share, ..OpenMode::READ };
        let image = self.naming.open(&self.filename, mode)?;
        let step = if self.step == 0 { self.size } else { self.step };
        if image.storage.size() < self.size {
            bail!("{}: smaller than one request", self.filename);
        }
        if !self.quiet {
            let verb = if self.write { "write" } else { "read" };
            print(&format!(
                "Sending {} {verb} requests, {} bytes each, {} in parallel (starting at offset {}, step size {step})\n",
                self.count, self.size, self.depth, self.offset
            ))?;
            if self.flush_interval > 0 {
                print(&format!("Sending flush every {} requests\n", self.flush_interval))?;
            }
        }
        let mut queue = Queue::with_ring(image.storage.clone(), self.depth, self.aio != "threads")?;
        let started = Instant::now();
        self.drive(&mut queue, image.storage.size(), step)?;
        let elapsed = started.elapsed();
        drop(queue);
        image.close().context("cannot finish")?;
        if self.quiet { Ok(()) } else { print(&format!("Run completed in {:3.3} seconds.\n", elapsed.as_secs_f64())) }
    }

    fn drive(&self, queue: &mut Queue, size: u64, step: u64) -> anyhow::Result<()> {
        let mut spare: Vec<AlignedBuffer> = Vec::new();
        let (mut sent, mut offset, mut since_flush) = (0, self.offset % size, 0);
        let mut batch = Vec::new();
        let mut completions = Vec::new();
        while sent < self.count || queue.in_flight() > 0 {
            while sent < self.count && queue.in_flight() + batch.len() < self.depth {
                if self.flush_interval > 0 && since_flush >= self.flush_interval {
                    if !self.no_drain && queue.in_flight() + batch.len() > 0 {
                        break;
                    }
                    batch.push(Request { token: 0, operation: Operation::Flush });
                    since_flush = 0;
                    if !self.no_drain {
                        break;
                    }
                    continue;
                }
                if offset + self.size > size {
                    offset = self.offset % step.min(size);
                    offset = if offset + self.size > size { 0 } else { offset };
                }
                let buffer = spare.pop().unwrap_or_else(|| {
                    let mut buffer = AlignedBuffer::new(self.size as usize);
                    buffer.fill(self.pattern);
                    buffer
                });
                let operation = if self.write {
                    Operation::Write { offset, buffer, flags: WriteFlags::default() }
                } else {
                    Operation::Read { offset, buffer }
                };
                batch.push(Request { token: sent, operation });
                offset += step;
                sent += 1;
                since_flush += 1;
            }
            queue.exchange(&mut batch, &mut completions)?;
            for done in completions.drain(..) {
                done.result.context("Failed request")?;
                spare.extend(done.buffer);
            }
        }
        Ok(())
    }
}
