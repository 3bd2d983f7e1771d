//! From what firmware boots, and in which order: `--boot`, and QEMU's `-boot`.

use std::str::FromStr;

use crate::description::DescriptionError;

/// A kind of device that firmware boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The disks, in the order of the description.
    Disk,
    /// The CD-ROM drives.
    Cdrom,
}

/// The order, and the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOrder {
    /// What is tried, one after the other; what isn't named comes after them.
    pub devices: Vec<BootDevice>,
    /// Firmware shows its boot menu.
    pub menu: bool,
    /// How long the menu's prompt waits for a key, in milliseconds, if not as long as firmware likes.
    pub menu_wait: Option<u32>,
}

impl Default for BootOrder {
    fn default() -> Self {
        Self { devices: vec![BootDevice::Disk, BootDevice::Cdrom], menu: false, menu_wait: None }
    }
}

fn device(name: &str) -> Option<BootDevice> {
    match name {
        "disk" | "hd" | "c" => Some(BootDevice::Disk),
        "cdrom" | "cd" | "d" => Some(BootDevice::Cdrom),
        _ => None,
    }
}

/// `cdrom` is a device, `dc` is two by their letters.
fn devices(text: &str) -> Option<Vec<BootDevice>> {
    device(text).map_or_else(|| text.chars().map(|letter| device(&letter.to_string())).collect(), |one| Some(vec![one]))
}

impl FromStr for BootOrder {
    type Err = DescriptionError;

    /// `[cdrom][,disk][,menu=on][,menu-wait=MS]`, or QEMU's `[order=]dc[,menu=on][,splash-time=MS]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse =
            |value: &str, problem: &str| Err(DescriptionError { value: value.into(), problem: problem.into() });
        let mut order = Self { devices: vec![], ..Self::default() };
        for part in text.split(',') {
            match part.split_once('=').unwrap_or(("order", part)) {
                ("order", names) => match devices(names) {
                    Some(found) if !names.is_empty() => order.devices.extend(found),
                    _ => return refuse(names, "what can be booted from is disk (c) and cdrom (d)"),
                },
                ("menu", "on") => order.menu = true,
                ("menu", "off") => order.menu = false,
                ("menu-wait" | "splash-time", wait) => match wait.parse() {
                    Ok(wait) => order.menu_wait = Some(wait),
                    Err(_) => return refuse(wait, "how long the boot menu waits is a number of milliseconds"),
                },
                _ => return refuse(part, "a boot order is cdrom,disk[,menu=on][,menu-wait=MS]"),
            }
        }
        for device in Self::default().devices {
            if !order.devices.contains(&device) {
                order.devices.push(device);
            }
        }
        order.devices.dedup();
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_said_in_words_or_letters() {
        let order = |text: &str| text.parse::<BootOrder>().map(|order| order.devices).ok();
        let cdrom_first = Some(vec![BootDevice::Cdrom, BootDevice::Disk]);
        for text in ["cdrom,disk", "cdrom", "d", "dc", "order=d,menu=off"] {
            assert_eq!(order(text), cdrom_first, "{text}");
        }
        assert_eq!(order("menu=on"), Some(BootOrder::default().devices));
        let menu: BootOrder = "d,menu=on,splash-time=500".parse().unwrap();
        assert_eq!((menu.menu, menu.menu_wait), (true, Some(500)));
        for wrong in ["", "n", "floppy", "menu=maybe", "d,wait", "menu-wait=long"] {
            assert_eq!(order(wrong), None, "{wrong}");
        }
    }
}
