//! What nodes and their witness say to each other: one datagram each way, sealed with the pair's key.

use std::time::Duration;

use crate::seal::Reader;
use crate::time::NodeId;

/// "FWQ", "FWR" and the version.
const REQUEST: u32 = 0x4657_5101;
const ANSWER: u32 = 0x4657_5201;
/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 128;

/// What a node wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A lease in a new epoch.
    Acquire,
    /// The same lease for longer.
    Renew,
    /// To give it back.
    Release,
}

/// What the witness is to remember of whose data are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SoleWish {
    /// What it knows.
    Keep,
    /// Only the holder's.
    Set,
    /// Both nodes'.
    Clear,
}

/// From a node to the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) cluster: u64,
    pub(crate) from: NodeId,
    pub(crate) group: u64,
    pub(crate) kind: Kind,
    /// Which reply is to this request.
    pub(crate) nonce: u64,
    /// What the last reply gave.
    pub(crate) token: u64,
    pub(crate) epoch: u64,
    pub(crate) sole: SoleWish,
    /// The node knows that its data are the newest, though the witness may not.
    pub(crate) vouch: bool,
    /// The other node is there, runs nothing, and says that its data aren't the only valid ones.
    pub(crate) agreed: bool,
    /// An operator insists, whoever's data are valid.
    pub(crate) force: bool,
    pub(crate) lease: Duration,
}

/// Why a lease isn't granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The other node has it.
    Held,
    /// The epoch was had by somebody before.
    OldEpoch,
    /// Only the other node has all data.
    PeerIsSole,
    /// This witness knows nothing of a group that has run before.
    NoRecord,
    /// Somebody else has taken it since.
    NotHolder,
}

/// What the witness says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask again with this token.
    Challenge,
    Granted,
    Released,
    Denied(Denial),
}

/// From the witness to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cluster: u64,
    pub(crate) to: NodeId,
    pub(crate) group: u64,
    pub(crate) nonce: u64,
    pub(crate) token: u64,
    pub(crate) verdict: Verdict,
    /// The epoch that the witness knows.
    pub(crate) epoch: u64,
    pub(crate) sole: Option<NodeId>,
    /// What is left of the lease, whoever has it.
    pub(crate) left: Duration,
}

fn micros(span: Duration) -> [u8; 4] {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX).to_be_bytes()
}

impl Request {
    /// Which pair an unopened message says that it is of.
    pub(crate) fn peek_cluster(bytes: &[u8]) -> Option<u64> {
        let mut reader = Reader(bytes);
        (reader.u32()? == REQUEST).then(|| reader.u64())?
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_MESSAGE);
        body.extend(REQUEST.to_be_bytes());
        body.extend(self.cluster.to_be_bytes());
        body.push(self.from.index());
        body.extend(self.group.to_be_bytes());
        body.push(match self.kind {
            Kind::Acquire => 0,
            Kind::Renew => 1,
            Kind::Release => 2,
        });
        body.extend(self.nonce.to_be_bytes());
        body.extend(self.token.to_be_bytes());
        body.extend(self.epoch.to_be_bytes());
        let sole = match self.sole {
            SoleWish::Keep => 0,
            SoleWish::Set => 1,
            SoleWish::Clear => 2,
        };
        body.push(sole | u8::from(self.vouch) << 2 | u8::from(self.force) << 3 | u8::from(self.agreed) << 4);
        body.extend(micros(self.lease));
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        if reader.u32()? != REQUEST {
            return None;
        }
        let cluster = reader.u64()?;
        let from = NodeId::from_index(reader.u8()?)?;
        let group = reader.u64()?;
        let kind = match reader.u8()? {
            0 => Kind::Acquire,
            1 => Kind::Renew,
            2 => Kind::Release,
            _ => return None,
        };
        let (nonce, token, epoch) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let flags = reader.u8()?;
        let sole = match flags & 3 {
            0 => SoleWish::Keep,
            1 => SoleWish::Set,
            2 => SoleWish::Clear,
            _ => return None,
        };
        let lease = Duration::from_micros(reader.u32()?.into());
        reader.end()?;
        let (vouch, force, agreed) = (flags & 4 != 0, flags & 8 != 0, flags & 16 != 0);
        let request = Self { cluster, from, group, kind, nonce, token, epoch, sole, vouch, agreed, force, lease };
        (flags < 32).then_some(request)
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_MESSAGE);
        body.extend(ANSWER.to_be_bytes());
        body.extend(self.cluster.to_be_bytes());
        body.push(self.to.index());
        body.extend(self.group.to_be_bytes());
        body.extend(self.nonce.to_be_bytes());
        body.extend(self.token.to_be_bytes());
        body.push(match self.verdict {
            Verdict::Challenge => 0,
            Verdict::Granted => 1,
            Verdict::Released => 2,
            Verdict::Denied(Denial::Held) => 3,
            Verdict::Denied(Denial::OldEpoch) => 4,
            Verdict::Denied(Denial::PeerIsSole) => 5,
            Verdict::Denied(Denial::NoRecord) => 6,
            Verdict::Denied(Denial::NotHolder) => 7,
        });
        body.extend(self.epoch.to_be_bytes());
        body.push(self.sole.map_or(2, NodeId::index));
        body.extend(micros(self.left));
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        if reader.u32()? != ANSWER {
            return None;
        }
        let cluster = reader.u64()?;
        let to = NodeId::from_index(reader.u8()?)?;
        let (group, nonce, token) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let verdict = match reader.u8()? {
            0 => Verdict::Challenge,
            1 => Verdict::Granted,
            2 => Verdict::Released,
            3 => Verdict::Denied(Denial::Held),
            4 => Verdict::Denied(Denial::OldEpoch),
            5 => Verdict::Denied(Denial::PeerIsSole),
            6 => Verdict::Denied(Denial::NoRecord),
            7 => Verdict::Denied(Denial::NotHolder),
            _ => return None,
        };
        let epoch = reader.u64()?;
        let sole = match reader.u8()? {
            2 => None,
            index => Some(NodeId::from_index(index)?),
        };
        let left = Duration::from_micros(reader.u32()?.into());
        reader.end()?;
        Some(Self { cluster, to, group, nonce, token, verdict, epoch, sole, left })
    }
}
