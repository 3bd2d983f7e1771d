//! What a client can do beyond the basic protocol, and what it has still to be told because of that.

use super::Session;
use crate::rfb::encode::{Effort, Encoding};

const COPY_RECT: i32 = 1;
pub(super) const DESKTOP_SIZE: i32 = -223;
pub(super) const POINTER_TYPE: i32 = -257;
pub(super) const EXTENDED_KEY: i32 = -258;
pub(super) const LED_STATE: i32 = -261;
pub(super) const DESKTOP_NAME: i32 = -307;
pub(super) const EXTENDED_DESKTOP_SIZE: i32 = -308;
pub(super) const FENCE: i32 = -312;
pub(super) const CONTINUOUS: i32 = -313;
/// VMware's LED state, which says the same as QEMU's in more bytes.
pub(super) const WIDE_LED_STATE: i32 = 0x574d_5668;

const FENCE_REQUEST: u32 = 1 << 31;
/// BlockBefore, BlockAfter and SyncNext, which sending everything in order keeps.
const FENCE_KNOWN: u32 = 7;

/// What a client can do.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    pub(super) copy_rect: bool,
    pub(super) desktop_size: bool,
    pub(super) extended_desktop_size: bool,
    pub(super) desktop_name: bool,
    pub(super) pointer_type: bool,
    pub(super) extended_key: bool,
    pub(super) led_state: bool,
    pub(super) wide_led_state: bool,
    fence: bool,
    continuous: bool,
}

impl Abilities {
    fn note(&mut self, number: i32) {
        let ability = match number {
            COPY_RECT => &mut self.copy_rect,
            DESKTOP_SIZE => &mut self.desktop_size,
            EXTENDED_DESKTOP_SIZE => &mut self.extended_desktop_size,
            DESKTOP_NAME => &mut self.desktop_name,
            POINTER_TYPE => &mut self.pointer_type,
            EXTENDED_KEY => &mut self.extended_key,
            LED_STATE => &mut self.led_state,
            WIDE_LED_STATE => &mut self.wide_led_state,
            FENCE => &mut self.fence,
            CONTINUOUS => &mut self.continuous,
            _ => return,
        };
        *ability = true;
    }

    pub(super) fn lamps(&self) -> bool {
        self.led_state || self.wide_led_state
    }
}

/// Rectangles without pixels that the next update has to have in it.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) size: bool,
    /// An attempt to change the size, to be refused.
    pub(super) size_refused: bool,
    pub(super) name: bool,
    pub(super) pointer_type: bool,
    pub(super) extended_key: bool,
    pub(super) lamps: bool,
}

impl Notices {
    pub(super) fn any(&self) -> bool {
        self.size || self.size_refused || self.name || self.pointer_type || self.extended_key || self.lamps
    }
}

impl Session {
    pub(super) fn set_encodings(&mut self, numbers: &[i32]) {
        self.encoding = numbers.iter().find_map(|number| Encoding::from_number(*number)).unwrap_or(Encoding::Raw);
        self.effort = Effort::default();
        let before = std::mem::take(&mut self.abilities);
        for &number in numbers {
            match number {
                -256..=-247 => self.effort.compression = (number + 256) as u32,
                -32..=-23 => self.effort.quality = Some((number + 32) as u8),
                number => self.abilities.note(number),
            }
        }
        let now = &self.abilities;
        self.notices.size |= now.extended_desktop_size && !before.extended_desktop_size;
        self.notices.name |= now.desktop_name && !before.desktop_name;
        self.notices.pointer_type |= now.pointer_type && !before.pointer_type;
        self.notices.extended_key |= now.extended_key && !before.extended_key;
        self.notices.lamps |= now.lamps() && !before.lamps();
        let (fence_new, continuous_new) = (now.fence && !before.fence, now.continuous && !before.continuous);
        if fence_new {
            self.send(fence(FENCE_REQUEST | 1, &[]));
        }
        if continuous_new {
            // That it may be turned on.
            self.send(vec![150]);
        }
    }

    /// Answers a fence, if it asks for that.
    pub(super) fn answer_fence(&mut self, flags: u32, payload: &[u8]) {
        if flags & FENCE_REQUEST != 0 {
            self.send(fence(flags & FENCE_KNOWN, payload));
        }
    }
}

fn fence(flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![248, 0, 0, 0];
    message.extend_from_slice(&flags.to_be_bytes());
    message.push(payload.len() as u8);
    message.extend_from_slice(payload);
    message
}
