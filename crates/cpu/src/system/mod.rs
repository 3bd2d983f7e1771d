//! What concerns the system rather than arithmetic: descriptors and segment registers, gates, far transfers, tasks,
//! control registers, system calls, port I/O.

pub(crate) mod control;
mod descriptor;
pub(crate) mod far;
mod interrupt;
pub(crate) mod iret;
pub(crate) mod load;
pub(crate) mod port;
pub(crate) mod syscall;
mod task;

pub(crate) use task::Switch;
