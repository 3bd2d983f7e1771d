//! QEMU's flags for network cards and what they are plugged into (`-net`, `-nic`, `-netdev`, `-device`), joined into
//! descriptions of cards.

use std::collections::HashMap;

use anyhow::{Context, bail};
use ferro_machine::{MacAddress, NetDescription};

/// Cards, and what they can be plugged into, in the order they were given.
#[derive(Default)]
pub(super) struct Nets {
    cards: Vec<Card>,
    /// `-net tap` and `-net user`, which QEMU joins to `-net nic` by one hub; as `--net` has them.
    plugs: Vec<String>,
    /// `-netdev`, by their ids.
    named: HashMap<String, String>,
}

/// A card (`-net nic`, `-device virtio-net-pci`).
struct Card {
    mac: Option<MacAddress>,
    /// The `-netdev` it belongs to; that of `-net nic` isn't named.
    netdev: Option<String>,
    /// Whether it has as many queues as what it is plugged into.
    multiqueue: bool,
}

/// What a card is plugged into, as `--net` says it.
fn plug(kind: &str, options: &[(&str, &str)]) -> anyhow::Result<String> {
    match kind {
        "tap" => tap(options),
        "user" => {
            let own = ["id", "vlan", "mac", "model", "name"];
            let options = options.iter().filter(|(key, _)| !own.contains(key));
            let text: String = options.map(|(key, value)| format!(",{key}={value}")).collect();
            // Wrong options are named as those of this flag.
            format!("user{text}").parse::<NetDescription>()?;
            Ok(format!("user{text}"))
        }
        _ => bail!("{kind}: a card is plugged into tap,ifname=NAME or user"),
    }
}

/// What `tap` options say, as `--net` has it. A script that would set the interface up isn't run.
fn tap(options: &[(&str, &str)]) -> anyhow::Result<String> {
    let (mut name, mut more) = (None, String::new());
    for (key, value) in options {
        match *key {
            "ifname" => name = Some(*value),
            "script" | "downscript" if *value == "no" => {}
            "script" | "downscript" => {
                bail!("{key}={value}: no scripts are run: set the interface up before, say {key}=no")
            }
            "vnet_hdr" => more.push_str(&format!(",offload={value}")),
            "queues" => more.push_str(&format!(",queues={value}")),
            // In the kernel or here: the same to the guest.
            "vhost" if *value == "off" => {}
            "id" | "vlan" | "mac" | "model" | "name" => {}
            _ => bail!("{key}: a TAP interface has ifname, script, downscript, vnet_hdr and queues"),
        }
    }
    let text = format!("tap={}{more}", name.context("ifname= is missing: which TAP interface?")?);
    text.parse::<NetDescription>()?;
    Ok(text)
}

/// QEMU's `on` and `off`.
fn switch(options: &[(&str, &str)], key: &str) -> anyhow::Result<bool> {
    match get(options, key) {
        None | Some("off") => Ok(false),
        Some("on") => Ok(true),
        Some(value) => bail!("{key}={value}: this is on or off"),
    }
}

fn get<'a>(options: &[(&'a str, &'a str)], key: &str) -> Option<&'a str> {
    options.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

pub(super) fn options(value: &str) -> (&str, Vec<(&str, &str)>) {
    let mut parts = value.split(',');
    let kind = parts.next().unwrap_or_default();
    (kind, parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect())
}

fn check_model(model: Option<&str>) -> anyhow::Result<()> {
    match model {
        None | Some("virtio" | "virtio-net-pci") => Ok(()),
        Some(model) => bail!("model={model}: network cards are virtio: say model=virtio"),
    }
}

impl Nets {
    pub(super) fn net(&mut self, value: &str) -> anyhow::Result<()> {
        let (kind, options) = options(value);
        match kind {
            "nic" => {
                check_model(get(&options, "model"))?;
                let known = ["macaddr", "model", "vlan", "netdev"];
                if let Some((key, _)) = options.iter().find(|(key, _)| !known.contains(key)) {
                    bail!("{key}: a card has macaddr and model");
                }
                let mac = get(&options, "macaddr").map(str::parse).transpose()?;
                let netdev = get(&options, "netdev").map(ToOwned::to_owned);
                self.cards.push(Card { mac, netdev, multiqueue: false });
            }
            "none" => {}
            _ => self.plugs.push(plug(kind, &options)?),
        }
        Ok(())
    }

    /// Both ends in one flag.
    pub(super) fn nic(&mut self, value: &str) -> anyhow::Result<()> {
        let (kind, options) = options(value);
        if kind == "none" {
            return Ok(());
        }
        check_model(get(&options, "model"))?;
        let mac = get(&options, "mac").map(str::parse).transpose()?;
        let id = format!("-nic {}", self.named.len());
        self.named.insert(id.clone(), plug(kind, &options)?);
        self.cards.push(Card { mac, netdev: Some(id), multiqueue: false });
        Ok(())
    }

    pub(super) fn netdev(&mut self, value: &str) -> anyhow::Result<()> {
        let (kind, options) = options(value);
        let id = get(&options, "id").context("id= is missing")?;
        self.named.insert(id.to_owned(), plug(kind, &options)?);
        Ok(())
    }

    /// A card given by `-device`.
    pub(super) fn card(&mut self, options: &[(&str, &str)]) -> anyhow::Result<()> {
        let mac = get(options, "mac").map(str::parse).transpose()?;
        let netdev = get(options, "netdev").context("netdev= is missing")?.to_owned();
        // The vectors are as many as the queues need.
        let known = ["mac", "netdev", "id", "mq", "vectors"];
        if let Some((key, _)) = options.iter().find(|(key, _)| !known.contains(key)) {
            bail!("{key}: a card has netdev, mac, mq, vectors and id");
        }
        self.cards.push(Card { mac, netdev: Some(netdev), multiqueue: switch(options, "mq")? });
        Ok(())
    }

    /// Gives each card what it is plugged into.
    pub(super) fn join(self) -> anyhow::Result<Vec<NetDescription>> {
        let Self { cards, plugs, mut named } = self;
        let mut plugs = plugs.into_iter();
        let mut joined = vec![];
        for Card { mac, netdev, multiqueue } in cards {
            let plug = match netdev {
                None => plugs
                    .next()
                    .context("-net nic: nothing to plug it into: add -net user or -net tap,ifname=NAME,script=no")?,
                Some(id) => {
                    named.remove(&id).with_context(|| format!("netdev={id}: no -netdev has this id, or two cards"))?
                }
            };
            let mut card = NetDescription { mac, ..plug.parse()? };
            if !multiqueue {
                card.options.queues = 1;
            }
            joined.push(card);
        }
        // QEMU takes one without a card too; a guest would not see it.
        if let Some(plug) = plugs.next() {
            bail!("-net {plug}: no card is plugged into it: add -net nic");
        }
        if let Some((id, _)) = named.into_iter().next() {
            bail!("-netdev {id}: no card is plugged into it: add -device virtio-net-pci,netdev={id}");
        }
        Ok(joined)
    }
}
