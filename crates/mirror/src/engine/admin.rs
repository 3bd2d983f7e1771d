//! Commands of operators and of a cluster, and the rules of promotion.

use super::Engine;
use super::link::{Link, PeerDisk};
use crate::api::{Admin, AdminError, Event, Output};
use crate::wire::Message;

impl Engine {
    pub(super) fn admin(&mut self, command: Admin) {
        let result = match command {
            Admin::Connect => {
                if self.link == Link::Standalone {
                    self.link = Link::Down;
                }
                Ok(())
            }
            Admin::Disconnect => {
                self.stand_alone();
                Ok(())
            }
            Admin::Primary { epoch, force, alone } => self.promote(epoch, force, alone),
            Admin::Secondary => self.demote(),
            Admin::GoAlone if self.primary && self.is_consistent() && self.link != Link::Connected => {
                self.go_alone();
                Ok(())
            }
            Admin::Invalidate => self.invalidate(),
            Admin::DiscardMyData if !self.primary && self.link != Link::Connected => {
                self.discard = true;
                Ok(())
            }
            Admin::PauseSync | Admin::ResumeSync => {
                self.paused = command == Admin::PauseSync;
                Ok(())
            }
            // Its writes would pass the comparison on their way here.
            Admin::Verify if self.peer_primary => Err(AdminError::PeerIsPrimary),
            Admin::Verify if self.peer_is_up_to_date() && self.is_consistent() && self.verify.is_none() => {
                self.start_verify();
                Ok(())
            }
            Admin::GoAlone | Admin::DiscardMyData | Admin::Verify => Err(AdminError::State),
        };
        self.outputs.push_back(Output::AdminReply(result));
    }

    fn promote(&mut self, token: Option<u64>, force: bool, alone: bool) -> Result<(), AdminError> {
        if self.primary || !self.attached && !self.peer_is_up_to_date() {
            return Err(AdminError::State);
        }
        if self.greeting() {
            // The greeting says that we are secondary.
            return Err(AdminError::State);
        }
        if self.peer_primary {
            return Err(AdminError::PeerIsPrimary);
        }
        let seen = self.epoch();
        let epoch = token.unwrap_or(seen.saturating_add(1));
        if epoch <= seen {
            return Err(AdminError::OldEpoch(epoch, seen));
        }
        // Without its peer nobody knows whether this replica is the newest: a token or an operator has to vouch for
        // that. Half a copy can't be vouched for.
        let complete =
            self.peer_is_up_to_date() || self.is_consistent() && (token.is_some() || self.link == Link::Connected);
        if !complete && !force {
            return Err(AdminError::NotUpToDate);
        }
        let fresh = self.identifier();
        let consistent = self.meta.superblock().consistent;
        self.primary = true;
        let overridden = !complete && !consistent;
        let crashed = self.meta.superblock().crashed && self.link != Link::Connected;
        self.meta.change(|s| {
            (s.epoch, s.primary) = (epoch, true);
            if overridden {
                s.consistent = true;
            }
        });
        // Unless writes are acknowledged by both, the peer may have some that are missing here: the two part now.
        let parted = !self.synchronous() && self.link != Link::Connected;
        self.advanced = overridden || crashed || parted;
        if self.advanced {
            self.meta.advance(fresh);
        }
        self.log_version = self.meta.wanted();
        // Force is a permission to go on without the peer, too.
        self.alone = self.link != Link::Connected && (alone || force);
        if self.link == Link::Connected {
            self.send(Message::Promoted { epoch });
            if overridden {
                // The peer has to compare again.
                self.drop_link();
            }
        }
        self.event(Event::BecamePrimary);
        Ok(())
    }

    fn demote(&mut self) -> Result<(), AdminError> {
        if !self.primary {
            return Err(AdminError::State);
        }
        self.demoting = true;
        self.start_barrier();
        Ok(())
    }

    fn invalidate(&mut self) -> Result<(), AdminError> {
        if self.primary || self.peer_disk == PeerDisk::Inconsistent {
            return Err(AdminError::State);
        }
        self.drop_link();
        self.meta.change(|s| {
            s.consistent = false;
            s.crashed = false;
            s.generations = crate::generation::Generations::default();
        });
        self.meta.mark(0..self.config.size);
        Ok(())
    }
}
