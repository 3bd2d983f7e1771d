//! Which of two replicas is ahead: generation identifiers and what a handshake concludes from them. Pure functions of
//! what both sides say; the engine acts on the answer.

/// Earlier generations that are remembered: enough for a peer that goes away again and again before a resync begins.
pub const HISTORY: usize = 8;

/// The history of a replica's data. 0 means "none". A new current generation begins when data are written that the
/// peer doesn't get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// The data as they stand; 0 as long as the replica never had valid data.
    pub current: u64,
    /// The generation since which the bitmap tells what the peer lacks; 0 when the peer lacks nothing.
    pub bitmap: u64,
    /// Earlier generations, the youngest first.
    pub history: [u64; HISTORY],
}

impl Generations {
    /// Begins generation `new`. The bitmap keeps counting from where it began; a current generation that is not its
    /// base goes into the history if it was `shared`, so that a peer which has it is found (and gets everything).
    pub fn advance(&mut self, new: u64, shared: bool) {
        if self.bitmap == 0 {
            self.bitmap = self.current;
        } else if shared {
            self.push(self.current);
        }
        self.current = new;
    }

    /// The peer has everything: the bitmap's base becomes history.
    pub fn settle(&mut self) {
        if self.bitmap != 0 {
            self.push(self.bitmap);
            self.bitmap = 0;
        }
    }

    /// What a target becomes after it has copied everything from a source with these generations.
    #[must_use]
    pub fn adopted(mut self) -> Self {
        self.settle();
        self
    }

    fn push(&mut self, old: u64) {
        if old != 0 {
            self.history.rotate_right(1);
            self.history[0] = old;
        }
    }

    fn ancestors(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.bitmap).chain(self.history).filter(|g| *g != 0)
    }
}

/// What one side says of its replica in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Replica {
    /// Which of the two nodes: decides between equals.
    pub node: u8,
    /// The history of the data.
    pub generations: Generations,
    /// Blocks are marked that the peer may lack.
    pub marked: bool,
    /// The data are one consistent state (not half a copy).
    pub consistent: bool,
    /// It was primary when its node went down, and what it wrote last is marked.
    pub crashed: bool,
    /// It is primary now.
    pub primary: bool,
    /// Its operator gives its data up if histories have parted.
    pub discard: bool,
}

/// What a handshake concludes, from the view of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Neither has valid data yet.
    Blank,
    /// Both have the same.
    InSync,
    /// This side sends: what is marked on either side, or everything.
    Source {
        /// Everything, as the bitmaps don't reach back far enough.
        full: bool,
    },
    /// This side receives.
    Target {
        /// Everything.
        full: bool,
    },
    /// Both wrote since they were one: an operator has to choose.
    SplitBrain,
    /// The two have no generation in common.
    Unrelated,
    /// The side that is ahead has no consistent data, so nobody can be the source.
    NoSource,
}

/// Compares two replicas. `synchronous` says that a write was acknowledged only when both had it (protocol C): then
/// the survivor of a crash has everything, otherwise only the crashed primary may have the last writes.
///
/// Symmetrical: both sides come to mirrored conclusions.
#[must_use]
pub fn decide(me: &Replica, peer: &Replica, synchronous: bool) -> Decision {
    let (mine, theirs) = (&me.generations, &peer.generations);
    let decision = match (mine.current, theirs.current) {
        (0, 0) => return Decision::Blank,
        (0, _) => Decision::Target { full: true },
        (_, 0) => Decision::Source { full: true },
        (a, b) if a == b => equal(me, peer, synchronous),
        (_, b) if mine.bitmap == b => Decision::Source { full: false },
        (a, _) if theirs.bitmap == a => Decision::Target { full: false },
        (_, b) if mine.history.contains(&b) => Decision::Source { full: true },
        (a, _) if theirs.history.contains(&a) => Decision::Target { full: true },
        _ => parted(me, peer),
    };
    match decision {
        Decision::Source { .. } if !me.consistent => Decision::NoSource,
        Decision::Target { .. } if !peer.consistent => Decision::NoSource,
        other => other,
    }
}

/// Equal generations don't mean equal data: marks made before a new generation was due must not be forgotten.
fn equal(me: &Replica, peer: &Replica, synchronous: bool) -> Decision {
    let source = if me.consistent != peer.consistent {
        me.consistent
    } else if !me.marked && !peer.marked {
        return if me.consistent { Decision::InSync } else { Decision::NoSource };
    } else if me.primary != peer.primary {
        me.primary
    } else if me.crashed != peer.crashed {
        me.crashed != synchronous
    } else if me.marked != peer.marked {
        me.marked
    } else {
        me.node < peer.node
    };
    if source { Decision::Source { full: false } } else { Decision::Target { full: false } }
}

fn parted(me: &Replica, peer: &Replica) -> Decision {
    // Half a copy has no history of its own: there are two nodes, so the other one was its source.
    match (me.consistent, peer.consistent) {
        (true, false) if !peer.primary => return Decision::Source { full: true },
        (false, true) if !me.primary => return Decision::Target { full: true },
        _ => {}
    }
    let (mine, theirs) = (&me.generations, &peer.generations);
    if !mine.ancestors().any(|g| theirs.ancestors().any(|h| g == h)) {
        return Decision::Unrelated;
    }
    // The bitmaps together hold all differences only if both count from the same state.
    let full = mine.bitmap == 0 || mine.bitmap != theirs.bitmap;
    match (me.discard && !me.primary, peer.discard && !peer.primary) {
        (true, false) => Decision::Target { full },
        (false, true) => Decision::Source { full },
        _ => Decision::SplitBrain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: u8, current: u64, bitmap: u64) -> Replica {
        Replica {
            node,
            generations: Generations { current, bitmap, history: [0; HISTORY] },
            marked: bitmap != 0,
            consistent: true,
            crashed: false,
            primary: false,
            discard: false,
        }
    }

    #[test]
    fn both_sides_conclude_the_same_for_every_combination() {
        let generations = [(0, 0), (1, 0), (2, 1), (3, 1), (3, 2), (4, 0)];
        for a in generations {
            for b in generations {
                for flags in 0..1024u32 {
                    let bit = |n: u32| flags >> n & 1 == 1;
                    let mut me = replica(0, a.0, a.1);
                    let mut peer = replica(1, b.0, b.1);
                    (me.marked, me.consistent, me.crashed, me.primary, me.discard) =
                        (bit(0), bit(1), bit(2), bit(3), bit(4));
                    (peer.marked, peer.consistent, peer.crashed, peer.primary, peer.discard) =
                        (bit(5), bit(6), bit(7), bit(8), bit(9));
                    for synchronous in [false, true] {
                        let there = decide(&peer, &me, synchronous);
                        let mirrored = match decide(&me, &peer, synchronous) {
                            Decision::Source { full } => Decision::Target { full },
                            Decision::Target { full } => Decision::Source { full },
                            same => same,
                        };
                        assert_eq!(there, mirrored, "{me:?} {peer:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_equal_generation_with_marks_is_copied_not_trusted() {
        let mut ahead = replica(1, 7, 0);
        ahead.marked = true;
        assert_eq!(decide(&ahead, &replica(0, 7, 0), true), Decision::Source { full: false });
        assert_eq!(decide(&replica(0, 7, 0), &replica(1, 7, 0), true), Decision::InSync);
    }

    #[test]
    fn the_survivor_is_right_under_c_and_the_crashed_primary_otherwise() {
        let mut crashed = replica(0, 7, 0);
        (crashed.marked, crashed.crashed) = (true, true);
        assert_eq!(decide(&crashed, &replica(1, 7, 0), true), Decision::Target { full: false });
        assert_eq!(decide(&crashed, &replica(1, 7, 0), false), Decision::Source { full: false });
    }

    #[test]
    fn parted_histories_wait_for_an_operator() {
        let (mut a, b) = (replica(0, 8, 7), replica(1, 9, 7));
        assert_eq!(decide(&a, &b, true), Decision::SplitBrain);
        a.discard = true;
        assert_eq!(decide(&a, &b, true), Decision::Target { full: false });
        assert_eq!(decide(&replica(0, 8, 6), &replica(1, 9, 7), true), Decision::Unrelated);
    }

    #[test]
    fn a_copy_that_finished_unnoticed_is_never_taken_for_stale() {
        // The target finished and took generation 8; the source didn't hear of it, and wrote on alone.
        let mut source = Generations { current: 8, bitmap: 7, history: [0; HISTORY] };
        source.advance(9, true);
        let mut target = replica(1, 8, 0);
        let mut me = replica(0, 0, 0);
        me.generations = source;
        assert_eq!(decide(&me, &target, true), Decision::Source { full: true });
        // Had the target been written too, that is a split brain.
        target.generations.advance(10, true);
        assert_eq!(decide(&me, &target, true), Decision::SplitBrain);
    }
}
