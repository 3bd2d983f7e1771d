//! `bench net dhcp`: clients that ask for addresses and renew them, as many at a time as a big network has after a power
//! cut. Who isn't answered in a second asks again.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ferro_net::MacAddress;
use ferro_net::dhcp::{CLIENT_PORT, SERVER_PORT, discover};
use ferro_net::wire::{Seen, datagram, read};
use ferro_sys::packet::PacketSocket;

use super::{GATEWAY, Pair};
use crate::bench::guest::{GuestArgs, Machine, median, show};
use crate::process::output;

/// Clients that wait for answers at one time.
const AT_ONCE: usize = 500;
const CLIENTS: u32 = 4000;
const AGAIN: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct LoadArgs {
    /// The interface
    interface: String,
}

pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let mut sides = [[vec![], vec![]], [vec![], vec![]]];
    for round in 0..=args.runs {
        for (side, [given, renewed]) in sides.iter_mut().enumerate() {
            let mut pair = Pair::new()?;
            if side == 0 {
                pair.ferro(&machine.ferro)?;
            } else {
                pair.dnsmasq()?;
            }
            pair.settle()?;
            let mut load = Pair::command(&pair.client, std::env::current_exe()?);
            let told = output(load.args(["bench", "net", "dhcp-load", "eth0"]))?;
            let number = |word: &str| {
                let line = told.lines().find_map(|line| line.strip_prefix(word));
                line.and_then(|rest| rest.trim().parse::<f64>().ok()).with_context(|| format!("no {word} in {told}"))
            };
            if round > 0 {
                given.push(number("GIVEN")?);
                renewed.push(number("RENEWED")?);
            }
        }
    }
    let [[given, renewed], [their_given, their_renewed]] = sides.map(|side| side.map(median));
    let row =
        |what: &str, ours: f64, theirs: f64| format!("| {what} | {ours:.0} | {theirs:.0} | {:.2} |\n", ours / theirs);
    let table = String::from("| what, a second | ferro | dnsmasq | ferro's / dnsmasq's |\n|---|---|---|---|\n")
        + &row("addresses given (probed / not probed)", given, their_given)
        + &row("addresses renewed", renewed, their_renewed);
    show(&table, args.markdown.as_deref())
}

/// One client.
enum Phase {
    /// It has asked for offers.
    Asked,
    /// It has asked for this address.
    Requested(Ipv4Addr),
}

pub(super) fn load(args: &LoadArgs) -> anyhow::Result<()> {
    let socket = PacketSocket::open_services(&args.interface)?;
    let mut load = Load { socket, waiting: HashMap::new(), sent: VecDeque::new(), has: vec![], begun: Instant::now() };
    println!("GIVEN {}", load.give()?);
    println!("RENEWED {}", load.renew()?);
    Ok(())
}

struct Load {
    socket: PacketSocket,
    waiting: HashMap<MacAddress, (Phase, Instant)>,
    /// In the order in which they asked.
    sent: VecDeque<(MacAddress, Instant)>,
    has: Vec<(MacAddress, Ipv4Addr)>,
    begun: Instant,
}

fn card(number: u32) -> MacAddress {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddress([2, 9, a, b, c, d])
}

/// A request: the discovery's bytes with another kind, and the options that go with it.
fn request(card: MacAddress, number: u32, address: Ipv4Addr, renews: bool) -> Vec<u8> {
    let mut bytes = discover(card, number);
    bytes.truncate(240);
    bytes[10..12].copy_from_slice(&[0, 0]);
    bytes.extend([53, 1, 3]);
    if renews {
        bytes[12..16].copy_from_slice(&address.octets());
    } else {
        bytes.extend([50, 4]);
        bytes.extend(address.octets());
        bytes.extend([54, 4]);
        bytes.extend(GATEWAY.octets());
    }
    bytes.push(255);
    bytes.resize(300, 0);
    bytes
}

impl Load {
    fn send(&mut self, card: MacAddress, phase: Phase, message: &[u8], from: Ipv4Addr) -> anyhow::Result<()> {
        let from = (card, SocketAddrV4::new(from, CLIENT_PORT));
        let frame = datagram(from, ([0xff; 6], SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT)), message);
        self.socket.send(&frame)?;
        let now = Instant::now();
        self.waiting.insert(card, (phase, now));
        self.sent.push_back((card, now));
        Ok(())
    }

    /// One answer: the card's address as it is in it, what was given, and whether it is final.
    fn receive(&self) -> Option<(MacAddress, Ipv4Addr, bool)> {
        let mut buffer = [0; 2048];
        let len = self.socket.receive(&mut buffer).ok()?;
        let Some(Seen::Server(_, message)) = read(&buffer[..len]) else { return None };
        let mac = MacAddress(message.get(28..34)?.try_into().ok()?);
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(message.get(16..20)?).ok()?);
        // Option 53 comes first or nearly: look for it.
        let kind = message.get(240..)?.windows(3).find(|window| window[..2] == [53, 1])?[2];
        matches!(kind, 2 | 5).then_some((mac, address, kind == 5))
    }

    /// Who has waited too long.
    fn overdue(&mut self) -> Option<MacAddress> {
        let (card, at) = *self.sent.front()?;
        let waits = self.waiting.get(&card).is_some_and(|(_, since)| *since == at);
        if !waits {
            self.sent.pop_front();
            return self.overdue();
        }
        (at.elapsed() > AGAIN).then(|| {
            self.sent.pop_front();
            card
        })
    }

    fn give(&mut self) -> anyhow::Result<f64> {
        let (mut next, mut begun) = (0, Instant::now());
        while self.has.len() < CLIENTS as usize {
            if begun.elapsed() > Duration::from_mins(2) {
                bail!("{} of {CLIENTS} have addresses after two minutes", self.has.len());
            }
            let again = self.overdue();
            if let Some(card) = again {
                self.send(card, Phase::Asked, &discover(card, 1), Ipv4Addr::UNSPECIFIED)?;
            } else if self.waiting.len() < AT_ONCE && next < CLIENTS {
                next += 1;
                self.send(card(next), Phase::Asked, &discover(card(next), next), Ipv4Addr::UNSPECIFIED)?;
            }
            while let Some((card, address, is_final)) = self.receive() {
                match self.waiting.get(&card) {
                    Some((Phase::Asked, _)) if !is_final => {
                        let message = request(card, 1, address, false);
                        self.send(card, Phase::Requested(address), &message, Ipv4Addr::UNSPECIFIED)?;
                    }
                    Some((Phase::Requested(wanted), _)) if is_final && *wanted == address => {
                        self.waiting.remove(&card);
                        self.has.push((card, address));
                        if self.has.len() == 1 {
                            begun = Instant::now();
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(self.has.len() as f64 / begun.elapsed().as_secs_f64())
    }

    fn renew(&mut self) -> anyhow::Result<f64> {
        self.begun = Instant::now();
        let all = self.has.clone();
        let (mut next, mut done) = (0, 0);
        while done < all.len() {
            if self.begun.elapsed() > Duration::from_mins(2) {
                bail!("{done} of {} are renewed after two minutes", all.len());
            }
            if self.waiting.len() < AT_ONCE && next < all.len() {
                let (card, address) = all[next];
                next += 1;
                self.send(card, Phase::Requested(address), &request(card, 1, address, true), address)?;
            } else if let Some(card) = self.overdue()
                && let Some((_, address)) = all.iter().find(|(other, _)| *other == card)
            {
                self.send(card, Phase::Requested(*address), &request(card, 1, *address, true), *address)?;
            }
            while let Some((card, _, is_final)) = self.receive() {
                if is_final && self.waiting.remove(&card).is_some() {
                    done += 1;
                }
            }
        }
        Ok(done as f64 / self.begun.elapsed().as_secs_f64())
    }
}
