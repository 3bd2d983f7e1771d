//! What goes wrong: crashes, cut links, disks that fail.

use ferro_mirror::{DataOp, Engine, Input, MetaOp, Protocol};

use super::world::{Broken, Done, What, World, bytes_of, config, place};

impl World {
    pub(super) fn boot(&mut self, node: usize) {
        self.say(|| format!("node {node} boots"));
        let entropy = self.rng.bits();
        match Engine::new(config(node, self.setup.protocol, entropy), &self.nodes[node].meta.view) {
            Ok(engine) => self.nodes[node].engine = Some(engine),
            Err(error) => self.failure = Some(format!("node {node} can't start: {error}")),
        }
        // Whoever put it up again has mended its disk.
        self.nodes[node].broken = Broken::default();
        self.collect(node);
        self.after(20, What::LinkUp { link: self.link });
    }

    /// A machine loses its power, and comes back later.
    pub(super) fn crash(&mut self, node: usize) {
        let other = 1 - node;
        let primary = self.is(node, Engine::is_primary);
        if self.setup.protocol != Protocol::C && primary {
            if self.sole == Some(other) && (self.failed(node) || self.is(node, Engine::is_consistent)) {
                self.taken_over(other);
            } else if self.sole.is_none() && self.valid[other] {
                self.returning = Some(node);
            }
        }
        self.lose_power(node);
        self.valid[node] = false;
        if self.valid == [false; 2] {
            self.oracles[0].caches_lost();
            self.returning = None;
            if self.sole.is_none() && self.setup.protocol != Protocol::C {
                // Only what the last primary flushed is sure to be anywhere.
                self.sole = Some(self.last_primary);
            }
            match self.sole {
                Some(n) => self.valid[n] = true,
                None => self.valid = [true; 2],
            }
        }
        self.unlink();
        let delay = 30 + self.rng.below(400);
        self.after(delay, What::Boot { node });
    }

    /// What the machine had in memory and in its disks' caches is gone.
    pub(super) fn lose_power(&mut self, node: usize) {
        self.say(|| format!("node {node} crashes"));
        self.outcome.crashes += 1;
        self.nodes[node].engine = None;
        let boot = self.nodes[node].boot;
        self.nodes[node].boot += 1;
        let (mut data, mut meta) = (Vec::new(), Vec::new());
        for what in self.queue.values() {
            match what {
                What::Disk {
                    node: n,
                    boot: b,
                    done: Done::Data { request: DataOp::Write { offset, payload }, .. },
                } if (*n, *b) == (node, boot) => {
                    data.push((place(*offset), bytes_of(payload)));
                }
                What::Disk { node: n, boot: b, done: Done::Meta { request: MetaOp::Write { offset, bytes }, .. } }
                    if (*n, *b) == (node, boot) =>
                {
                    meta.push((place(*offset), bytes.clone()));
                }
                _ => {}
            }
        }
        self.nodes[node].data.crash(data, &mut self.rng);
        self.nodes[node].meta.crash(meta, &mut self.rng);
        let lost: Vec<u64> = self.pending.iter().filter(|(_, p)| p.0 == node).map(|(id, _)| *id).collect();
        for id in lost {
            self.finish(id, None);
        }
    }

    pub(super) fn unlink(&mut self) {
        if !self.linked {
            return;
        }
        self.say(|| "link down".into());
        self.linked = false;
        self.link += 1;
        for node in 0..2 {
            self.nodes[node].inbox.clear();
            self.tell(node, Input::LinkDown);
        }
        let delay = 20 + self.rng.below(60);
        self.after(delay, What::LinkUp { link: self.link });
    }

    pub(super) fn link_up(&mut self) {
        if self.cut || self.nodes.iter().any(|n| n.engine.is_none()) {
            self.after(50, What::LinkUp { link: self.link });
            return;
        }
        self.say(|| "link up".into());
        self.linked = true;
        for node in 0..2 {
            self.tell(node, Input::LinkUp);
        }
    }

    pub(super) fn fault(&mut self) {
        if self.setup.disk_errors && self.rng.one_in(4) {
            let node = place(self.rng.below(2));
            self.say(|| format!("the disk of node {node} fails"));
            let data = self.rng.below(4) > 0;
            self.nodes[node].broken = Broken { data, meta: !data };
        }
        match self.rng.below(6) {
            0 => self.crash_if_up(0),
            1 => self.crash_if_up(1),
            2 => {
                self.crash_if_up(0);
                self.crash_if_up(1);
            }
            3 => {
                self.outcome.cuts += 1;
                self.unlink();
            }
            4 => {
                self.outcome.cuts += 1;
                self.cut = true;
                self.unlink();
            }
            _ => self.cut = false,
        }
        let delay = 1 + self.rng.below(300);
        self.after(delay, What::Fault);
    }

    pub(super) fn crash_if_up(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            self.crash(node);
        }
    }
}
