//! Doing the steps of a plan on this host, each written down before it is done, and undoing them when one fails. Which
//! steps these are is [`super::plan`]'s.

use std::path::Path;

use serde::Serialize;

use super::config::Declaration;
use super::plan::{Made, Observed, Step, Thing, plan, stands};
use super::state::{State, recall};
use super::{Error, Host, Kind, Result, bridge, firewall, forwarding, nft, port, service};

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
        return plan(declaration, &recall(state)?, &observe(host, state)?);
    }
    let mut state = State::open(state)?;
    let steps = plan(declaration, &state.made, &observe(host, &state.folder)?)?;
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
    let observed = observe(host, state)?;
    Ok(made.into_iter().map(|made| Standing { stands: stands(&made, &observed), thing: made.thing }).collect())
}

fn observe(host: &Host, state: &Path) -> Result<Observed> {
    let links = host.links()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let addresses =
        host.addresses()?.into_iter().filter_map(|(index, address)| Some((name(index)?, address))).collect();
    let plugged = |link: &super::Link| Some((link.name.clone(), name(link.controller?)?));
    Ok(Observed {
        plugged: links.iter().filter_map(plugged).collect(),
        checks: nft::has_checks()?,
        serving: service::is_running(state),
        addresses,
        listing: nft::listing()?,
        forwarding: forwarding::is_on()?,
        links: links.iter().map(|link| (link.name.clone(), link.kind == Kind::Bridge && link.up)).collect(),
    })
}

/// A bridge doesn't go away under a VM.
fn refuse_used(host: &Host, steps: &[Step]) -> Result<()> {
    let goes = |port: &String| {
        steps.iter().any(|step| matches!(step, Step::Remove(Thing::Plug { interface, .. }) if interface == port))
    };
    for bridge in bridge::list(host)? {
        let removed = |step: &Step| matches!(step, Step::Remove(Thing::Bridge { name }) if *name == bridge.name);
        let ports: Vec<String> = bridge.ports.iter().filter(|port| !goes(port)).cloned().collect();
        if steps.iter().any(removed) && !ports.is_empty() {
            return Err(Error::InUse { bridge: bridge.name, ports: ports.join(", ") });
        }
    }
    Ok(())
}

/// The step that leads back from `step`.
fn inverse(step: &Step, made: &[Made]) -> Step {
    match step {
        Step::Remove(thing) => Step::Make(thing.clone()),
        Step::Make(thing) => {
            let former = made.iter().find(|made| thing.is_in_place_of(&made.thing));
            former.map_or_else(|| Step::Remove(thing.clone()), |former| Step::Make(former.thing.clone()))
        }
    }
}

fn take(host: &Host, step: &Step, state: &mut State) -> Result<()> {
    match step {
        Step::Make(thing) => {
            match state.made.iter_mut().find(|made| thing.is_in_place_of(&made.thing)) {
                Some(made) => *made = Made { thing: thing.clone(), listing: String::new() },
                None => state.made.push(Made { thing: thing.clone(), listing: String::new() }),
            }
            state.save()?;
            make(host, &state.folder, thing)?;
            if let Thing::Firewall { .. } = thing
                && let Some(made) = state.made.iter_mut().find(|made| made.thing == *thing)
            {
                made.listing = nft::listing()?;
                state.save()?;
            }
            Ok(())
        }
        Step::Remove(thing) => {
            remove(host, &state.folder, thing)?;
            state.made.retain(|made| made.thing != *thing);
            state.save()
        }
    }
}

fn make(host: &Host, state: &Path, thing: &Thing) -> Result<()> {
    match thing {
        Thing::Bridge { name } => bridge::add(host, name, None).map(drop),
        Thing::Address { bridge, address } => bridge::add(host, bridge, Some(*address)).map(drop),
        Thing::Firewall { script } => nft::load(script),
        Thing::Forwarding => forwarding::set(true).map(drop),
        Thing::Vlan { name, uplink, id } => host.make_vlan(name, uplink, *id),
        Thing::Plug { interface, bridge } => plug(host, interface, bridge),
        Thing::Checks { segments } => port::check(host, state, segments),
        Thing::Services { settings } => service::start(state, settings),
    }
}

fn plug(host: &Host, interface: &str, bridge: &str) -> Result<()> {
    let port = host.find(interface)?.ok_or_else(|| Error::Unknown(interface.to_owned()))?;
    host.plug(&port, &bridge::get(host, bridge)?)?;
    host.switch_on(&port)
}

fn remove(host: &Host, state: &Path, thing: &Thing) -> Result<()> {
    match thing {
        Thing::Bridge { name } => bridge::delete(host, name).map(drop),
        Thing::Address { bridge, address } => match host.find(bridge)? {
            Some(link) => host.delete_address(&link, *address),
            None => Ok(()),
        },
        Thing::Firewall { .. } => nft::load(&firewall::clear()),
        Thing::Forwarding => forwarding::set(false).map(drop),
        Thing::Vlan { name, .. } => host.find(name)?.map_or(Ok(()), |link| host.delete_link(&link)),
        Thing::Plug { interface, bridge } => match (host.find(interface)?, host.find(bridge)?) {
            (Some(port), Some(bridge)) if port.controller == Some(bridge.index) => host.unplug(&port),
            _ => Ok(()),
        },
        Thing::Checks { .. } => port::check(host, state, &[]),
        Thing::Services { .. } => service::stop(state),
    }
}
