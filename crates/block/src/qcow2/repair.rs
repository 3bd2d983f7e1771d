//! Putting right what a check found: reference counts, flags, impossible table entries.

use super::check::{Checker, Fix};
use super::entry::Cluster;
use super::header::INCOMPAT_CORRUPT;
use super::image::{Alone, Inner};
use super::options::Repair;
use super::report::CheckReport;
use super::state::State;
use crate::{Error, Result};

impl Inner {
    /// Compares reference counts with references, and repairs.
    pub(super) fn check(&self, repair: Repair) -> Result<CheckReport> {
        if repair != Repair::None && self.read_only {
            return Err(Error::ReadOnly("the image".into()));
        }
        let alone = self.alone();
        if !self.read_only {
            self.commit_with(&alone.committing, true)?;
        }
        let mut state = self.state();
        let mut checker = Checker::new(self, &state);
        checker.run(&mut state)?;
        drop(state);
        if repair == Repair::None {
            return Ok(checker.report);
        }
        self.repair(&alone, checker, repair)
    }

    fn repair<'a>(&'a self, alone: &Alone<'_>, mut checker: Checker<'a>, repair: Repair) -> Result<CheckReport> {
        let all = repair == Repair::All;
        if all && !checker.fixes.is_empty() {
            let fixed = checker.fixes.len() as u64;
            self.fix_tables(alone, &mut self.state(), std::mem::take(&mut checker.fixes))?;
            // What those entries referred to has changed the counts.
            let before = checker.report;
            let mut state = self.state();
            checker = Checker::new(self, &state);
            checker.run(&mut state)?;
            let later = &mut checker.report;
            later.messages = before.messages;
            later.corruptions += fixed;
            later.corruptions_fixed += fixed;
        }
        let mut state = self.state();
        // New refcount blocks go behind everything that is referred to: the counts can't be trusted yet.
        state.refcounts.allocate_from(checker.references.end());
        for &(cluster, count, references) in &checker.wrong {
            if count > references {
                state.refcounts.set(&self.file, cluster, references)?;
                checker.report.leaks_fixed += 1;
            } else if all {
                state.refcounts.set(&self.file, cluster, references)?;
                checker.report.corruptions_fixed += 1;
            }
        }
        state.refcounts.allocate_from(0);
        if all || !checker.wrong.is_empty() {
            state.refresh_copied(&self.file)?;
            checker.report.corruptions_fixed += checker.wrong_flags;
        }
        state.map_metadata();
        let clean = checker.report.corruptions_fixed >= checker.report.corruptions;
        drop(state);
        if clean {
            self.settle(&alone.committing)?;
            self.clear_corrupt()?;
        } else {
            self.commit_with(&alone.committing, true)?;
        }
        Ok(checker.report)
    }

    fn fix_tables(&self, _alone: &Alone<'_>, state: &mut State, fixes: Vec<Fix>) -> Result<()> {
        for fix in fixes {
            match fix {
                Fix::L1(index) => state.set_l1(index, 0),
                Fix::L2(table, guest) => {
                    state.l2.load(&self.file, table)?;
                    let zero = if state.geometry.version >= 3 { state.geometry.full_mask() } else { 0 };
                    state.set_cluster(table, guest, &Cluster { zero, ..Cluster::default() })?;
                }
                Fix::Reftable(index) => state.refcounts.set_table(index, 0),
            }
        }
        Ok(())
    }

    fn clear_corrupt(&self) -> Result<()> {
        let mut state = self.state();
        if state.stored_header.incompatible & INCOMPAT_CORRUPT == 0 {
            return Ok(());
        }
        let mut header = state.stored_header.clone();
        header.incompatible &= !INCOMPAT_CORRUPT;
        state.header.incompatible &= !INCOMPAT_CORRUPT;
        self.store_header(&mut state, header)?;
        self.file.flush()
    }
}
