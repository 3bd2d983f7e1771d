//! Doing the steps of a plan on this host, each written down before it is done, and undoing them when one fails. Which
//! steps these are is [`super::plan`]'s.

use std::path::Path;

use serde::Serialize;

use super::config::Declaration;
use super::plan::{Made, Observed, Step, Thing, plan, stands};
use super::state::{State, recall};
use super::{Error, Host, Kind, Result, bridge, firewall, forwarding, nft};

/// Something that was made, and whether it is as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// What.
    pub thing: Thing,
    /// Whether it is there, unchanged.
    pub stands: bool,
}

/// Brings the host to `declaration` and returns the steps that this took; with `dry_run`, would take. What was made is
/// remembered in the directory `state`. An empty declaration takes everything down.
///
/// # Errors
/// Something that others made is in the way, interfaces are still plugged into a bridge that is to go, no permission, no
/// nft: then nothing was done. A step that failed: then the ones before were undone.
pub fn bring(host: &Host, declaration: &Declaration, state: &Path, dry_run: bool) -> Result<Vec<Step>> {
    if dry_run {
        return plan(declaration, &recall(state)?, &observe(host)?);
    }
    let mut state = State::open(state)?;
    let steps = plan(declaration, &state.made, &observe(host)?)?;
    refuse_used(host, &steps)?;
    let mut undo: Vec<Step> = vec![];
    for step in &steps {
        let back = inverse(step, &state.made);
        let done = take(host, step, &mut state);
        // A step that failed half-way is undone like one that didn't.
        undo.push(back);
        if let Err(error) = done {
            for step in undo.iter().rev() {
                if let Err(second) = take(host, step, &mut state) {
                    tracing::error!("cannot undo what was done: {step}: {second}");
                }
            }
            return Err(error);
        }
    }
    Ok(steps)
}

/// What was made on this host by the memory in `state`, and how it stands.
///
/// # Errors
/// As for [`bring`].
pub fn status(host: &Host, state: &Path) -> Result<Vec<Standing>> {
    let made = recall(state)?;
    if made.is_empty() {
        return Ok(vec![]);
    }
    let observed = observe(host)?;
    Ok(made.into_iter().map(|made| Standing { stands: stands(&made, &observed), thing: made.thing }).collect())
}

fn observe(host: &Host) -> Result<Observed> {
    let links = host.links()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let addresses =
        host.addresses()?.into_iter().filter_map(|(index, address)| Some((name(index)?, address))).collect();
    Ok(Observed {
        addresses,
        listing: nft::listing()?,
        forwarding: forwarding::is_on()?,
        links: links.iter().map(|link| (link.name.clone(), link.kind == Kind::Bridge && link.up)).collect(),
    })
}

/// A bridge doesn't go away under a VM.
fn refuse_used(host: &Host, steps: &[Step]) -> Result<()> {
    let bridges = bridge::list(host)?;
    for step in steps {
        if let Step::Remove(Thing::Bridge { name }) = step
            && let Some(used) = bridges.iter().find(|bridge| bridge.name == *name && !bridge.ports.is_empty())
        {
            return Err(Error::InUse { bridge: name.clone(), ports: used.ports.join(", ") });
        }
    }
    Ok(())
}

/// The step that leads back from `step`.
fn inverse(step: &Step, made: &[Made]) -> Step {
    match step {
        Step::Remove(thing) => Step::Make(thing.clone()),
        Step::Make(Thing::Firewall { script }) => {
            let former = made.iter().find(|made| matches!(made.thing, Thing::Firewall { .. }));
            former.map_or_else(
                || Step::Remove(Thing::Firewall { script: script.clone() }),
                |former| Step::Make(former.thing.clone()),
            )
        }
        Step::Make(thing) if made.iter().any(|made| made.thing == *thing) => Step::Make(thing.clone()),
        Step::Make(thing) => Step::Remove(thing.clone()),
    }
}

fn take(host: &Host, step: &Step, state: &mut State) -> Result<()> {
    match step {
        Step::Make(thing) => {
            let same = |made: &Made| match thing {
                Thing::Firewall { .. } => matches!(made.thing, Thing::Firewall { .. }),
                _ => made.thing == *thing,
            };
            match state.made.iter_mut().find(|made| same(made)) {
                Some(made) => *made = Made { thing: thing.clone(), listing: String::new() },
                None => state.made.push(Made { thing: thing.clone(), listing: String::new() }),
            }
            state.save()?;
            make(host, thing)?;
            if let Thing::Firewall { .. } = thing
                && let Some(made) = state.made.iter_mut().find(|made| made.thing == *thing)
            {
                made.listing = nft::listing()?;
                state.save()?;
            }
            Ok(())
        }
        Step::Remove(thing) => {
            remove(host, thing)?;
            state.made.retain(|made| made.thing != *thing);
            state.save()
        }
    }
}

fn make(host: &Host, thing: &Thing) -> Result<()> {
    match thing {
        Thing::Bridge { name } => bridge::add(host, name, None).map(drop),
        Thing::Address { bridge, address } => bridge::add(host, bridge, Some(*address)).map(drop),
        Thing::Firewall { script } => nft::load(script),
        Thing::Forwarding => forwarding::set(true).map(drop),
    }
}

fn remove(host: &Host, thing: &Thing) -> Result<()> {
    match thing {
        Thing::Bridge { name } => bridge::delete(host, name).map(drop),
        Thing::Address { bridge, address } => match host.find(bridge)? {
            Some(link) => host.delete_address(&link, *address),
            None => Ok(()),
        },
        Thing::Firewall { .. } => nft::load(&firewall::clear()),
        Thing::Forwarding => forwarding::set(false).map(drop),
    }
}
