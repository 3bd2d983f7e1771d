//! The monitor's language for people: a line with a command and its arguments, an answer in words. QEMU's names, arguments
//! and layout of answers (its manual, "QEMU Monitor"); the prompt is ours.

mod arguments;
mod expression;
mod line;
mod session;
mod table;
mod text;

pub use line::{Edit, LineEditor};
pub use session::Session;
pub use table::completions;
