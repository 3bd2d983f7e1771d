//! The monitor's language for programs: QMP, as QEMU's "QMP Protocol Specification" and its QAPI schema have it. JSON
//! objects come in, answers and events go out.

mod json;
mod reader;
mod schema;
mod session;
mod table;

pub use session::{Session, Time};
