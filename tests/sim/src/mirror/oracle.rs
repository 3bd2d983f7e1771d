//! What a consumer may read: per sector the writes that could be the last. Knows no engine.

#[derive(Clone, Debug)]
struct Candidate {
    id: u64,
    tag: u64,
    issued: u64,
    ended: Option<u64>,
    acknowledged: bool,
}

/// Content is known by tags; tag 0 is zeroes, as at the beginning.
#[derive(Clone)]
pub(crate) struct Oracle {
    /// As long as one valid copy survives.
    strict: Vec<Vec<Candidate>>,
    /// After all copies lost their caches: back to the last flush.
    loose: Vec<Vec<Candidate>>,
    /// At a peer that takes over: back to when the two last were equal.
    remote: Vec<Vec<Candidate>>,
}

impl Oracle {
    pub(crate) fn new(sectors: usize) -> Self {
        let first = vec![Candidate { id: 0, tag: 0, issued: 0, ended: Some(0), acknowledged: true }];
        Self { strict: vec![first.clone(); sectors], loose: vec![first.clone(); sectors], remote: vec![first; sectors] }
    }

    pub(crate) fn issue(&mut self, id: u64, tag: u64, sectors: std::ops::Range<usize>, now: u64) {
        for s in sectors {
            let candidate = Candidate { id, tag, issued: now, ended: None, acknowledged: false };
            self.strict[s].push(candidate.clone());
            self.loose[s].push(candidate.clone());
            self.remote[s].push(candidate);
        }
    }

    pub(crate) fn end(&mut self, id: u64, sectors: std::ops::Range<usize>, now: u64, acknowledged: bool) {
        for s in sectors {
            for list in [&mut self.strict[s], &mut self.loose[s], &mut self.remote[s]] {
                for c in list.iter_mut().filter(|c| c.id == id) {
                    (c.ended, c.acknowledged) = (Some(now), acknowledged);
                }
            }
            if acknowledged {
                prune(&mut self.strict[s], now);
            }
        }
    }

    /// A flush issued at `issued` was acknowledged.
    pub(crate) fn flushed(&mut self, issued: u64) {
        for list in &mut self.loose {
            prune(list, issued.saturating_sub(1));
        }
    }

    /// No copy is left that had all acknowledged writes.
    pub(crate) fn caches_lost(&mut self) {
        // Any of them may be the last now, so a later flush says nothing of which.
        for candidate in self.loose.iter_mut().chain(&mut self.remote).filter(|l| l.len() > 1).flatten() {
            candidate.acknowledged = false;
        }
        self.strict = self.loose.clone();
    }

    /// The peer has, durably, everything that was acknowledged by `until`.
    pub(crate) fn synced(&mut self, until: u64) {
        for list in &mut self.remote {
            prune(list, until);
        }
    }

    /// The peer goes on; what was `sent` and no more it may lack.
    pub(crate) fn taken_over(&mut self, sent: bool) {
        self.loose = self.remote.clone();
        if sent {
            self.caches_lost();
        }
    }

    pub(crate) fn allows(&self, sector: usize, tag: u64) -> bool {
        self.strict[sector].iter().any(|c| c.tag == tag)
    }

    pub(crate) fn expected(&self, sector: usize) -> Vec<u64> {
        self.strict[sector].iter().map(|c| c.tag).collect()
    }
}

/// Removes what ended before a write began that was acknowledged by `until`.
fn prune(list: &mut Vec<Candidate>, until: u64) {
    let newest = list
        .iter()
        .filter(|c| c.acknowledged && c.ended.is_some_and(|e| e <= until))
        .map(|c| c.issued)
        .max()
        .unwrap_or(0);
    list.retain(|c| c.ended.is_none_or(|e| e >= newest));
}
