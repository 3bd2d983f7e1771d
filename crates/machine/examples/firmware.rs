//! Boots a disk through firmware, types at it and prints its text screen:
//! `firmware DISK [soft|kvm] [SECONDS] [PICTURE.ppm] [KEY…]`.
use std::sync::Arc;
use std::time::Duration;

use ferro_block::{FileOptions, FileStorage, Storage};
use ferro_machine::*;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let disc: DiskDescription = arguments[1].parse().expect("a disk");
    let description = VmDescription {
        memory: "256M".parse().expect("it is a size"),
        accelerator: arguments.get(2).map_or("soft", |s| s).parse().expect("an accelerator"),
        disks: vec![disc.clone()],
        no_reboot: true,
        ..VmDescription::default()
    };
    let image: Arc<dyn Storage> =
        Arc::new(FileStorage::open(std::path::Path::new(&disc.file), FileOptions::default()).expect("an image"));
    let seconds: u64 = arguments.get(3).map_or(5, |s| s.parse().expect("seconds"));
    let picture = arguments.get(4).cloned();
    let keys: Vec<String> = arguments.iter().skip(5).cloned().collect();
    let outcome = run_with(&description, vec![image.into()], move |handle| {
        std::thread::spawn(move || {
            let screen = handle.screen().expect("there is a screen").clone();
            std::thread::sleep(Duration::from_secs(seconds));
            for key in &keys {
                let key = Key::from_name(key).expect("the name of a key");
                handle.key(key, true);
                handle.key(key, false);
                std::thread::sleep(Duration::from_millis(200));
            }
            println!("{}", screen.contents().unwrap_or_default().join("\n"));
            if let Some(path) = picture {
                std::fs::write(path, screen.picture().to_ppm()).expect("it can be written");
            }
            handle.quit();
        });
    });
    println!("{outcome:?}");
}
