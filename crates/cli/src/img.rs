//! `ferro img`: qemu-img's commands with qemu-img's flags, and `mount` and `serve`. Each command is in a file of its own.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod figures;
mod info;
mod map;
mod measure;
mod mount;
mod progress;
mod rebase;
mod resize;
mod serve;
mod snapshot;
mod source;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use figures::{human_size, size};
pub(crate) use source::print;

use crate::exit;

#[derive(Debug, Subcommand)]
pub(crate) enum ImgCommand {
    /// Make a new image
    Create(create::CreateArgs),
    /// Say what an image is
    Info(info::InfoArgs),
    /// Look for damage, and repair it
    Check(check::CheckArgs),
    /// Copy images into another format
    Convert(convert::ConvertArgs),
    /// List, make, apply or delete internal snapshots
    Snapshot(snapshot::SnapshotArgs),
    /// Change the size of the disk in an image
    Resize(resize::ResizeArgs),
    /// Change what an image is based on
    Rebase(rebase::RebaseArgs),
    /// Write an image's changes into its backing file
    Commit(commit::CommitArgs),
    /// Say where in an image and its backing files data is
    Map(map::MapArgs),
    /// Compare the contents of two images
    Compare(compare::CompareArgs),
    /// Say how much space a new image would take
    Measure(measure::MeasureArgs),
    /// Copy part of an image
    Dd(dd::DdArgs),
    /// Change an image's options
    Amend(amend::AmendArgs),
    /// Change an image's persistent dirty bitmaps
    Bitmap(bitmap::BitmapArgs),
    /// Measure how fast an image is read or written
    Bench(bench::BenchArgs),
    /// Show an image as a raw file in a directory
    Mount(mount::MountArgs),
    /// Export an image over the network (NBD)
    Serve(serve::ServeArgs),
}

impl ImgCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(args) => args.run()?,
            Self::Info(args) => args.run()?,
            Self::Check(args) => return args.run(),
            Self::Convert(args) => args.run()?,
            Self::Snapshot(args) => args.run()?,
            Self::Resize(args) => args.run()?,
            Self::Rebase(args) => args.run()?,
            Self::Commit(args) => args.run()?,
            Self::Map(args) => args.run()?,
            Self::Compare(args) => return args.run(),
            Self::Measure(args) => args.run()?,
            Self::Dd(args) => args.run()?,
            Self::Amend(args) => args.run()?,
            Self::Bitmap(args) => args.run()?,
            Self::Bench(args) => args.run()?,
            Self::Mount(args) => args.run()?,
            Self::Serve(args) => args.run()?,
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// Marks `resize`'s relative size as no flag: `resize image -1G` is what qemu-img takes.
pub(crate) fn arrange(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let is_resize = arguments.iter().take(4).any(|argument| argument == "resize");
    let shrinks = arguments.last().and_then(|last| last.to_str()).is_some_and(|last| {
        last.strip_prefix('-').is_some_and(|size| size.starts_with(|digit: char| digit.is_ascii_digit()))
    });
    if is_resize && shrinks && !arguments.iter().any(|argument| argument == "--") {
        arguments.insert(arguments.len() - 1, "--".into());
    }
    arguments
}
