//! The body of a heartbeat packet: fixed fields in network byte order, then a report for each group.

use std::time::Duration;

use crate::group::Report;
use crate::seal::Reader;
use crate::time::{NodeId, Time};

/// "FHB" and the version.
const MAGIC: u32 = 0x4648_4201;
/// Groups of which a packet can tell.
pub(crate) const MAX_REPORTS: usize = 32;
/// Longest packet: header, reports, code.
pub(super) const MAX: usize = 4 + 8 + 1 + 16 + 4 + 16 + 8 + 16 + 1 + MAX_REPORTS * Report::SIZE + 16;

/// Which packet: of which start of its sender, and its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) cluster: u64,
    pub(super) from: NodeId,
    pub(super) own: Receipt,
    /// What the sender waits before it takes us for dead.
    pub(super) deadtime: Duration,
    /// The newest of our packets that the sender received.
    pub(super) received: Receipt,
    /// The number of the newest that counted as a sign of life, of the same start as `received`.
    pub(super) counted: u64,
    /// A packet of a start of ours that the sender hasn't met yet.
    pub(super) candidate: Receipt,
    pub(super) reports: Vec<Report>,
}

impl Packet {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX);
        body.extend(MAGIC.to_be_bytes());
        body.extend(self.cluster.to_be_bytes());
        body.push(self.from.index());
        receipt(&mut body, self.own);
        body.extend(u32::try_from(self.deadtime.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
        receipt(&mut body, self.received);
        body.extend(self.counted.to_be_bytes());
        receipt(&mut body, self.candidate);
        let reports = &self.reports[..self.reports.len().min(MAX_REPORTS)];
        body.push(u8::try_from(reports.len()).unwrap_or(0));
        reports.iter().for_each(|report| report.encode(&mut body));
        body
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        if reader.u32()? != MAGIC {
            return None;
        }
        let cluster = reader.u64()?;
        let from = NodeId::from_index(reader.u8()?)?;
        let own = read_receipt(&mut reader)?;
        let deadtime = Duration::from_micros(reader.u32()?.into());
        let received = read_receipt(&mut reader)?;
        let counted = reader.u64()?;
        let candidate = read_receipt(&mut reader)?;
        let count = usize::from(reader.u8()?);
        if count > MAX_REPORTS {
            return None;
        }
        let reports = (0..count).map(|_| Report::decode(&mut reader)).collect::<Option<_>>()?;
        reader.end()?;
        Some(Self { cluster, from, own, deadtime, received, counted, candidate, reports })
    }

    /// Until when the sender won't take us for dead: `deadtime` after we sent what counted last.
    pub(super) fn counted_time(&self, incarnation: u64, sent_at: impl Fn(u64) -> Option<Time>) -> Option<Time> {
        if self.received.incarnation != incarnation || self.counted == 0 {
            return None;
        }
        sent_at(self.counted).map(|at| at.after(self.deadtime))
    }
}

fn receipt(body: &mut Vec<u8>, receipt: Receipt) {
    body.extend(receipt.incarnation.to_be_bytes());
    body.extend(receipt.sequence.to_be_bytes());
}

fn read_receipt(reader: &mut Reader<'_>) -> Option<Receipt> {
    Some(Receipt { incarnation: reader.u64()?, sequence: reader.u64()? })
}
