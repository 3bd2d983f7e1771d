//! Two cluster engines and a witness or a fence: links that break in one direction or both, machines that crash, daemons that
//! die alone, clocks that drift, and mirrored data of which only versions are known.

mod node;
mod world;

pub use world::{Arbitration, Outcome, World};
