//! A standard VGA with Bochs' VBE extensions as a PCI function (1234:1111): text, 16-colour, 256-colour and linear
//! framebuffer modes over video memory that is part of the guest's, and renderers from its state to a [`Surface`]. What
//! is not modelled: the timing of the beam (no interrupts at the retrace, no effects within a frame), blinking, panning by
//! single pixels.
//!
//! Video memory holds the four planes interleaved: byte `plane` of the plane address `a` is at `4 * a + plane`. A mode
//! that chains the planes, and the linear framebuffer, are then the bytes in their order.

mod device;
mod graphics;
mod memory;
mod palette;
mod planes;
mod registers;
mod surface;
mod text;
mod vbe;

pub use device::{FRAMEBUFFER_BAR, Vga};
pub use memory::VideoMemory;
pub use surface::{Rect, Surface};
