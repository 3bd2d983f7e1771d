//! Steps: the form in which the operations of a block are executed. Each does its work and then calls the next one's
//! step itself, which compilers turn into a jump; where one doesn't, the stack grows by at most a block's operations.
//! What instructions do is not here: steps are made of handlers.

use ferro_guest::Word;

use crate::core::{BLOCK, Bus, Core, Flow, Op, Stop};

/// Executes an operation and then the rest of its block. `Ok`: the block's end was reached.
pub(crate) type Step = fn(&mut Core, &mut Bus<'_>, &Op, &[Op]) -> Flow;

/// Executes the operations of a block, or the rest of them.
#[inline(always)]
pub(crate) fn next(core: &mut Core, bus: &mut Bus<'_>, rest: &[Op]) -> Flow {
    match rest {
        [op, rest @ ..] => (op.step)(core, bus, op, rest),
        [] => Ok(()),
    }
}

/// What a step does once its handler has returned.
#[inline(always)]
pub(crate) fn after(core: &mut Core, bus: &mut Bus<'_>, rest: &[Op], flow: Flow) -> Flow {
    match flow {
        Ok(()) => next(core, bus, rest),
        Err(stop) => {
            core.left = rest.len();
            Err(stop)
        }
    }
}

/// Ends a step with the branch to `target` (relative to the block's start), if it is taken.
#[inline(always)]
pub(crate) fn branch(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op], target: u64, taken: bool) -> Flow {
    if taken {
        core.rip = core.regs[BLOCK].wrapping_add(target);
        core.instructions += u64::from(op.number) + u64::from(op.count);
        return Err(Stop::Left);
    }
    next(core, bus, rest)
}

/// The step of any handler. Not inlined, so that steps that fall back on it need no registers saved.
#[inline(never)]
pub(crate) fn plain(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let flow = (op.run)(core, bus, op);
    after(core, bus, rest, flow)
}

/// The step of a pair whose first instruction needs the handler, `CC` being the branch's condition.
#[cold]
#[inline(never)]
pub(crate) fn plain_pair<const CC: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    match (op.run)(core, bus, op) {
        Ok(()) => {
            let taken = core.condition::<CC>();
            branch(core, bus, op, rest, i64::from(op.target) as u64, taken)
        }
        stopped => after(core, bus, rest, stopped),
    }
}

/// The last thing a step does that stored a word in a page, `watched` as [`Ram::store_in_page`] said.
///
/// [`Ram::store_in_page`]: ferro_guest::Ram::store_in_page
#[inline(always)]
pub(crate) fn stored<W: Word>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
    offset: usize,
    watched: bool,
) -> Flow {
    if watched {
        core.written = offset;
        return report::<W>(core, bus, op, rest);
    }
    next(core, bus, rest)
}

#[cold]
#[inline(never)]
fn report<W: Word>(core: &mut Core, bus: &mut Bus<'_>, _op: &Op, rest: &[Op]) -> Flow {
    let over_code = core.memory.ram().report_over_code(core.written, W::SIZE);
    after(core, bus, rest, if over_code { Err(Stop::Sync) } else { Ok(()) })
}

/// The step of one handler that can't fail, into which it is inlined.
macro_rules! step {
    ($handler:expr) => {{
        let step: crate::step::Step = |core, bus, op, rest| {
            let flow = $handler(core, bus, op);
            crate::step::after(core, bus, rest, flow)
        };
        step
    }};
}

/// As `step`, where nobody will look at the flags.
macro_rules! quiet {
    ($handler:expr) => {{
        let step: crate::step::Step = |core, bus, op, rest| {
            let flags = core.flags;
            let flow = $handler(core, bus, op);
            core.flags = flags;
            crate::step::after(core, bus, rest, flow)
        };
        step
    }};
}
pub(crate) use {quiet, step};
