//! Help, completions and man pages, all from the one definition: every flag of qemu-img is in them.

mod support;

use support::Bench;

/// qemu-img's commands with their flags, and ours.
const FLAGS: [(&str, &[&str]); 18] = [
    ("amend", &["--object", "--image-opts", "-p", "-q", "-f", "-t", "--force", "-o"]),
    (
        "bench",
        &[
            "-c",
            "-d",
            "-f",
            "--flush-interval",
            "-i",
            "-n",
            "--no-drain",
            "-o",
            "--pattern",
            "-q",
            "-s",
            "-S",
            "-t",
            "-w",
            "-U",
        ],
    ),
    (
        "bitmap",
        &["--merge", "--add", "--remove", "--clear", "--enable", "--disable", "-b", "-F", "-g", "--object", "-f"],
    ),
    ("check", &["--object", "--image-opts", "-q", "-f", "--output", "-r", "-T", "-U"]),
    ("commit", &["--object", "--image-opts", "-q", "-f", "-t", "-b", "-r", "-d", "-p"]),
    ("compare", &["--object", "--image-opts", "-f", "-F", "-T", "-p", "-q", "-s", "-U"]),
    (
        "convert",
        &[
            "--object",
            "--image-opts",
            "--target-image-opts",
            "--target-is-zero",
            "--bitmaps",
            "-U",
            "-C",
            "-c",
            "-p",
            "-q",
            "-n",
            "-f",
            "-t",
            "-T",
            "-O",
            "-B",
            "-F",
            "-o",
            "-l",
            "-S",
            "-r",
            "-m",
            "-W",
            "--salvage",
        ],
    ),
    ("create", &["--object", "-q", "-f", "-b", "-F", "-u", "-o"]),
    ("dd", &["--image-opts", "-U", "-f", "-O"]),
    ("info", &["--object", "--image-opts", "-f", "--output", "--backing-chain", "-U"]),
    ("map", &["--object", "--image-opts", "-f", "--start-offset", "--max-length", "--output", "-U"]),
    ("measure", &["--output", "-O", "-o", "--size", "--object", "--image-opts", "-f", "-l"]),
    ("snapshot", &["--object", "--image-opts", "-U", "-q", "-l", "-a", "-c", "-d"]),
    ("rebase", &["--object", "--image-opts", "-U", "-q", "-f", "-t", "-T", "-p", "-u", "-b", "-F"]),
    ("resize", &["--object", "--image-opts", "-f", "--preallocation", "-q", "--shrink"]),
    ("mount", &["--partition", "--read-only", "-f"]),
    ("serve", &["--socket", "--listen", "--read-only", "--export", "--insecure", "--iops", "--bps"]),
    ("help", &[]),
];

#[test]
fn every_flag_is_explained() {
    let bench = Bench::new();
    for (command, flags) in FLAGS {
        let text = bench.ok(&format!("ferro img {command} --help").replace("help --help", "help"));
        let words: Vec<_> = text.split([' ', ',', '\n', '=', '[']).collect();
        for flag in flags {
            assert!(words.contains(flag), "{command} {flag}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{command}: a line is too long");
    }
}

#[test]
fn completions_and_man_pages_come_from_the_same_definition() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(bench.ok(&format!("ferro completions {shell}")).contains("backing-chain"), "{shell}");
    }
    bench.ok("ferro man pages");
    let page = std::fs::read_to_string(bench.path("pages/ferro-img-convert.1")).expect("a man page");
    assert!(page.contains("target\\-is\\-zero"), "{page}");
}

#[test]
fn sizes_and_lists_read_as_qemu_img_writes_them() {
    let bench = Bench::new();
    bench.ok("ferro img create -q -f qcow2 -o cluster_size=4k disk.qcow2 1000000000");
    let text = bench.ok("ferro img info disk.qcow2");
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("disk size")).collect();
    assert_eq!(
        lines,
        [
            "image: disk.qcow2",
            "file format: qcow2",
            "virtual size: 954 MiB (1000000000 bytes)",
            "cluster_size: 4096",
            "Format specific information:",
            "    compat: 1.1",
            "    compression type: zlib",
            "    lazy refcounts: false",
            "    refcount bits: 16",
            "    corrupt: false",
            "    extended l2: false",
        ]
    );
}
