//! The Debian package by dpkg-deb, from the metadata that cargo-deb reads. As much of cargo-deb's format as we use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process::{cargo, command, output, root, run};

/// The Debian revision, as cargo-deb counts.
const REVISION: u32 = 1;

/// What is to be where in the package.
struct Asset {
    from: PathBuf,
    to: PathBuf,
    mode: u32,
}

/// Metadata of the package `ferro-cli`.
fn metadata() -> anyhow::Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let all: Value = serde_json::from_str(&text)?;
    let packages = all["packages"].as_array().context("cargo metadata has no packages")?;
    packages.iter().find(|package| package["name"] == "ferro-cli").cloned().context("there is no ferro-cli")
}

fn word<'a>(table: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    table[key].as_str().with_context(|| format!("[package.metadata.deb] has no {key}"))
}

/// The files that a name with at most one `*`, in its last part, means.
fn expand(pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((begin, end)) = name.split_once('*') else { return Ok(vec![pattern.into()]) };
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path.is_file() && name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
    };
    let mut found: Vec<PathBuf> = paths.into_iter().filter(fits).collect();
    found.sort();
    if found.is_empty() {
        bail!("{} is nothing", pattern.display());
    }
    Ok(found)
}

fn assets(deb: &Value, binary: &Path) -> anyhow::Result<Vec<Asset>> {
    let mut all = vec![];
    for asset in deb["assets"].as_array().context("[package.metadata.deb] has no assets")? {
        let (Some(from), Some(to), Some(mode)) = (asset[0].as_str(), asset[1].as_str(), asset[2].as_str()) else {
            bail!("{asset} isn't [FROM, TO, MODE]");
        };
        let mode = u32::from_str_radix(mode, 8).with_context(|| format!("{mode} is no mode"))?;
        // The binary of whichever profile was asked for.
        let found = match from.strip_prefix("target/release/") {
            Some("ferro") => vec![binary.to_owned()],
            _ => expand(&root().join("crates/cli").join(from))?,
        };
        for path in found {
            let to =
                if to.ends_with('/') { Path::new(to).join(path.file_name().unwrap_or_default()) } else { to.into() };
            all.push(Asset { from: path, to, mode });
        }
    }
    Ok(all)
}

/// The libraries that the binary needs: libc in the newest version of which it uses a symbol, and what unwinds.
fn needed(binary: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(binary)?;
    let number = |text: &[u8]| {
        let text: Vec<u8> = text.iter().copied().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').collect();
        let (major, minor) = std::str::from_utf8(&text).ok()?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.split('.').next()?.parse::<u32>().ok()?))
    };
    let versions = bytes.windows(20).filter_map(|window| number(window.strip_prefix(b"\0GLIBC_")?));
    match versions.max() {
        Some((major, minor)) => Ok(format!("libc6 (>= {major}.{minor}), libgcc-s1")),
        None => bail!("{} uses no symbol of libc", binary.display()),
    }
}

/// Folders are for everybody to enter, whatever this process' umask is.
fn folders(top: &Path, path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path)?;
    for folder in path.ancestors().take_while(|folder| folder.starts_with(top)) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn put(top: &Path, asset: &Asset) -> anyhow::Result<u64> {
    let path = top.join(&asset.to);
    folders(top, path.parent().unwrap_or(top))?;
    if path.exists() {
        bail!("{} is in the package twice", asset.to.display());
    }
    fs::copy(&asset.from, &path).with_context(|| format!("cannot copy {}", asset.from.display()))?;
    if asset.to == Path::new("usr/bin/ferro") {
        // Without binutils it is only larger.
        let _ = command("strip").arg(&path).status();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(asset.mode))?;
    Ok(fs::metadata(&path)?.len().div_ceil(1024))
}

/// Makes the package in a folder, and returns its name.
pub(super) fn build(binary: &Path, made: &Path) -> anyhow::Result<PathBuf> {
    let package = metadata()?;
    let deb = &package["metadata"]["deb"];
    let (name, maintainer) = (word(deb, "name")?, word(deb, "maintainer")?);
    let version = format!("{}-{REVISION}", package["version"].as_str().context("ferro-cli has no version")?);
    let architecture = output(command("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let stage = tempfile::tempdir()?;
    let top = stage.path().join("root");
    let control = top.join("DEBIAN");
    folders(&top, &control)?;
    let mut kilobytes = 0;
    for asset in assets(deb, binary)? {
        kilobytes += put(&top, &asset)?;
    }
    let depends = word(deb, "depends")?.replace("$auto", &needed(binary)?);
    let summary = package["description"].as_str().context("ferro-cli has no description")?;
    let mut text = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {maintainer}\n\
         Installed-Size: {kilobytes}\nDepends: {depends}\nSection: {}\nPriority: {}\n",
        word(deb, "section")?,
        word(deb, "priority")?
    );
    for (key, field) in [("recommends", "Recommends"), ("suggests", "Suggests")] {
        if let Some(value) = deb[key].as_str() {
            text += &format!("{field}: {value}\n");
        }
    }
    text += &format!("Description: {summary}\n");
    text.extend(word(deb, "extended-description")?.trim().lines().map(|line| format!(" {line}\n")));
    fs::write(control.join("control"), text)?;
    let conffiles = deb["conf-files"].as_array().into_iter().flatten().filter_map(Value::as_str);
    fs::write(control.join("conffiles"), conffiles.map(|path| format!("{path}\n")).collect::<String>())?;
    let scripts = root().join("crates/cli").join(word(deb, "maintainer-scripts")?);
    for script in ["postinst", "prerm", "postrm"] {
        fs::copy(scripts.join(script), control.join(script)).with_context(|| format!("there is no {script}"))?;
        fs::set_permissions(control.join(script), fs::Permissions::from_mode(0o755))?;
    }
    for file in ["control", "conffiles"] {
        fs::set_permissions(control.join(file), fs::Permissions::from_mode(0o644))?;
    }
    let path = made.join(format!("{name}_{version}_{architecture}.deb"));
    run(command("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&top).arg(&path))?;
    Ok(path)
}
