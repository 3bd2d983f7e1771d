//! What a node tells its peer of a group, in every heartbeat.

use crate::seal::Reader;

/// What a node does with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing runs here.
    Stopped,
    /// It wants to start and waits for permission.
    Claiming,
    /// It starts.
    Starting,
    /// It runs.
    Active,
    /// It stops.
    Stopping,
}

impl Role {
    /// Whether it starts or runs.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Starting | Self::Active)
    }
}

/// One group as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The group, as a number made of its name.
    pub group: u64,
    /// What the node does with it.
    pub role: Role,
    /// The epoch in which it does that; of a stopped group the highest one seen, durably.
    pub epoch: u64,
    /// Only this node's data are valid, or will be as soon as somebody else knows that.
    pub sole: bool,
    /// The epoch in which that came to be; 0 if it hasn't.
    pub sole_epoch: u64,
    /// A number that is another one each time `sole` becomes true.
    pub turn: u64,
    /// This node knows durably that its data are not valid: the other's `turn` from which it knows; otherwise 0.
    pub outdated: u64,
    /// It has stopped so that the other starts.
    pub yields: bool,
    /// An operator wants the group here.
    pub wants: bool,
    /// It could run the group.
    pub eligible: bool,
    /// Its mirrors are connected and both sides have everything.
    pub in_sync: bool,
    /// What the group is declared to be ([`super::GroupConfig::fingerprint`]).
    pub fingerprint: u64,
}

impl Report {
    /// Bytes in a packet.
    pub(crate) const SIZE: usize = 50;

    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.extend(self.group.to_be_bytes());
        body.push(match self.role {
            Role::Stopped => 0,
            Role::Claiming => 1,
            Role::Starting => 2,
            Role::Active => 3,
            Role::Stopping => 4,
        });
        let flags = [self.sole, self.yields, self.wants, self.eligible, self.in_sync];
        body.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        body.extend(self.epoch.to_be_bytes());
        body.extend(self.sole_epoch.to_be_bytes());
        body.extend(self.turn.to_be_bytes());
        body.extend(self.outdated.to_be_bytes());
        body.extend(self.fingerprint.to_be_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let group = reader.u64()?;
        let role = match reader.u8()? {
            0 => Role::Stopped,
            1 => Role::Claiming,
            2 => Role::Starting,
            3 => Role::Active,
            4 => Role::Stopping,
            _ => return None,
        };
        let flags = reader.u8()?;
        let (epoch, sole_epoch) = (reader.u64()?, reader.u64()?);
        let (turn, outdated, fingerprint) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let flag = |bit: u8| flags >> bit & 1 == 1;
        (flags < 32).then_some(Self {
            group,
            role,
            epoch,
            sole: flag(0),
            sole_epoch,
            turn,
            outdated,
            yields: flag(1),
            wants: flag(2),
            eligible: flag(3),
            in_sync: flag(4),
            fingerprint,
        })
    }
}
