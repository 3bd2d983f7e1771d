//! Images that a BIOS boots: GRUB with Debian's kernel and the busybox RAM disk, made of Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{guest, has, output};

/// What a Debian package has there; says so if it isn't installed.
pub(crate) fn installed(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is missing; `cargo xtask packages` installs it", path.display());
    None
}

pub(crate) fn has_firmware() -> bool {
    installed("/usr/share/seabios/bios-256k.bin").is_some()
}

/// An image with GRUB, Debian's kernel and the busybox RAM disk, which a BIOS boots as a disc and as a disk; the kernel's
/// command line is `append`. `None`, after saying so, without what it is made of.
pub(crate) fn bootable_image(folder: &Path, flavour: &str, append: &str) -> Option<PathBuf> {
    let (kernel, initrd) = (guest(&format!("vmlinuz-{flavour}"))?, guest(&format!("initrd-{flavour}.gz"))?);
    installed("/usr/lib/grub/i386-pc/boot.img")?;
    (has_firmware() && has("grub-mkrescue") && has("xorriso")).then_some(())?;
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("boot/grub")).unwrap();
    std::fs::copy(kernel, tree.join("boot/vmlinuz")).unwrap();
    std::fs::copy(initrd, tree.join("boot/initrd.gz")).unwrap();
    let numbers: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(tree.join("numbers"), numbers).unwrap();
    // In quotes: GRUB has a syntax of its own.
    let append = append.split(' ').map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let menu = format!(
        "set timeout=0\nmenuentry Linux {{\n linux /boot/vmlinuz console=ttyS0 quiet {append}\n initrd /boot/initrd.gz\n}}\n"
    );
    std::fs::write(tree.join("boot/grub/grub.cfg"), menu).unwrap();
    let image = folder.join("boot.iso");
    let mut make = Command::new("grub-mkrescue");
    make.args(["-d", "/usr/lib/grub/i386-pc", "--fonts=", "--themes=", "--locales=", "-o"]).arg(&image).arg(&tree);
    output(make.env("TMPDIR", folder));
    Some(image)
}
