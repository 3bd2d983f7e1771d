//! The cache of lowered code: blocks by where their bytes are in host memory and by the mode they were lowered for, and
//! a direct-mapped table from linear addresses to blocks. What is in a block is `lower`'s affair.

use crate::core::{CodeSize, Core, Flow, Op, vector};
use crate::lower::{self, MAX_OPS};
use crate::memory::is_canonical;
use crate::paging::Place;
use crate::registers::CS;
use crate::snapshot::KEY_SINGLE;
use crate::tlb::{Access, Set};

const JUMPS: usize = 8192;
const HEADS: usize = 1 << 16;
const NONE: u32 = u32::MAX;
/// When this many operations are cached, everything is thrown away.
const CAPACITY: usize = 1 << 20;

/// A run of instructions that is left only at its end or by an exception.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Where its first byte is in host memory.
    offset: usize,
    key: u32,
    generation: u32,
    /// Its operations in [`Cache::ops`].
    start: u32,
    count: u8,
    instructions: u8,
    /// Bytes of code.
    len: u16,
    /// Its bytes in [`Cache::bytes`].
    bytes: u32,
    /// Next block of the same hash.
    next: u32,
    /// For an instruction that crosses into another page: where that is, and its generation.
    second: Option<(usize, u32)>,
}

/// What the run loop has to know of a block.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    start: u32,
    /// Bytes of code.
    pub(crate) len: u16,
    count: u8,
    pub(crate) instructions: u8,
}

/// A block by its linear address.
#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    stamp: u64,
    found: Found,
    /// Its index in [`Cache::blocks`].
    block: u32,
    /// Where in the table the blocks are that followed it last: after its end, and after a branch out of its middle.
    next: [u16; 2],
}

const NO_JUMP: Jump = Jump {
    linear: 0,
    stamp: 0,
    found: Found { start: 0, len: 0, count: 0, instructions: 0 },
    block: NONE,
    next: [0; 2],
};

/// How a block was left: what is known of the next one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Exits {
    block: u16,
    by_branch: bool,
}

impl Exits {
    /// At its end.
    #[inline(always)]
    pub(crate) fn end(block: u16) -> Self {
        Self { block, by_branch: false }
    }

    /// By a branch in its middle.
    #[inline(always)]
    pub(crate) fn branch(block: u16) -> Self {
        Self { block, by_branch: true }
    }
}

fn no_jumps() -> Box<[Jump; JUMPS]> {
    let jumps = vec![NO_JUMP; JUMPS].into_boxed_slice().try_into();
    let Ok(jumps) = jumps else { unreachable!("the length is JUMPS") };
    jumps
}

/// All cached code of one CPU.
pub(crate) struct Cache {
    ops: Vec<Op>,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    heads: Box<[u32]>,
    jumps: Box<[Jump; JUMPS]>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            ops: Vec::new(),
            bytes: Vec::new(),
            blocks: Vec::new(),
            heads: vec![NONE; HEADS].into(),
            jumps: no_jumps(),
        }
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
        self.blocks.clear();
        self.heads.fill(NONE);
        self.jumps.fill(NO_JUMP);
    }

    /// A block that was found, and its operations.
    #[inline(always)]
    pub(crate) fn block(&self, index: u16) -> (&Found, &[Op]) {
        let found = &self.jumps[usize::from(index) % JUMPS].found;
        let start = found.start as usize;
        (found, &self.ops[start..start + usize::from(found.count)])
    }

    /// The block at the CPU's RIP, if it was executed lately. The one that followed the same exit last is looked at
    /// first: so its operations are known before RIP is.
    #[inline(always)]
    pub(crate) fn recent(&mut self, core: &Core, exit: Exits) -> Option<u16> {
        let linear = core.segments[CS].base.wrapping_add(core.rip);
        let stamp = stamp(core, core.key);
        let next = self.jumps[usize::from(exit.block) % JUMPS].next[usize::from(exit.by_branch)];
        let jump = &self.jumps[usize::from(next) % JUMPS];
        if jump.linear == linear && jump.stamp == stamp {
            return Some(next);
        }
        let index = hash_linear(linear);
        let jump = &self.jumps[index];
        if jump.linear != linear || jump.stamp != stamp {
            return None;
        }
        self.jumps[usize::from(exit.block) % JUMPS].next[usize::from(exit.by_branch)] = index as u16;
        Some(index as u16)
    }

    /// The block at the CPU's RIP.
    pub(crate) fn find(&mut self, core: &mut Core) -> Flow<u16> {
        self.find_slow(core, core.key)
    }

    /// As [`Cache::find`], a block without pairs.
    pub(crate) fn find_single(&mut self, core: &mut Core) -> Flow<u16> {
        let key = core.key | KEY_SINGLE;
        let linear = core.segments[CS].base.wrapping_add(core.rip);
        let index = hash_linear(linear) ^ 1;
        let jump = &self.jumps[index];
        if jump.linear == linear && jump.stamp == stamp(core, key) {
            return Ok(index as u16);
        }
        self.find_slow(core, key)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, core: &mut Core, key: u32) -> Flow<u16> {
        let room = check_fetch(core)?;
        let unwrapped = core.segments[CS].base.wrapping_add(core.rip);
        let linear = core.wrap(unwrapped);
        let Some(offset) = fetch_offset(core, linear)? else {
            return core.raise(vector::UD);
        };
        // A flush of translations most often leaves a block where it was.
        let single = usize::from(key & KEY_SINGLE != 0);
        let at = hash_linear(unwrapped) ^ single;
        let last = self.jumps[at];
        let block = if last.linear == unwrapped
            && self.is_block(last.block, key, offset, room)
            && self.is_current(core, last.block, linear)?
        {
            last.block
        } else {
            self.find_block(core, key, offset, linear, room)?
        };
        let Block { start, count, len, instructions, .. } = self.blocks[block as usize];
        let found = Found { start, len, count, instructions };
        let next = if last.block == block { last.next } else { [0; 2] };
        // An instruction that crosses pages depends on the second page's translation, too; a stamp vouches for that.
        self.jumps[at] = Jump { linear: unwrapped, stamp: stamp(core, key), found, block, next };
        core.note_fetched(linear);
        core.note_fetched(linear.wrapping_add(u64::from(len)));
        Ok(at as u16)
    }

    fn is_block(&self, index: u32, key: u32, offset: usize, room: u64) -> bool {
        let block = self.blocks.get(index as usize);
        block.is_some_and(|block| block.offset == offset && block.key == key && u64::from(block.len) <= room)
    }

    /// The block of the code at an offset of host memory.
    fn find_block(&mut self, core: &mut Core, key: u32, offset: usize, linear: u64, room: u64) -> Flow<u32> {
        let head = hash_offset(offset, key);
        let mut before = NONE;
        let mut index = self.heads[head];
        while index != NONE {
            let next = self.blocks[index as usize].next;
            if self.is_block(index, key, offset, room) {
                if self.is_current(core, index, linear)? {
                    return Ok(index);
                }
                // Nothing will ever find it again.
                self.blocks[index as usize].offset = usize::MAX;
                match self.blocks.get_mut(before as usize) {
                    Some(before) => before.next = next,
                    None => self.heads[head] = next,
                }
            } else {
                before = index;
            }
            index = next;
        }
        self.build(core, key, offset, linear, room)
    }

    /// Whether the block is still what is in memory.
    fn is_current(&mut self, core: &mut Core, index: u32, linear: u64) -> Flow<bool> {
        let block = self.blocks[index as usize];
        if let Some((second, generation)) = block.second {
            let next_page = core.wrap((linear & !0xfff).wrapping_add(0x1000));
            let same = fetch_offset(core, next_page)? == Some(second)
                && core.memory.ram().code_generation(second) == generation;
            return Ok(same && core.memory.ram().code_generation(block.offset) == block.generation);
        }
        let ram = core.memory.ram();
        if ram.code_generation(block.offset) == block.generation {
            return Ok(true);
        }
        // Something in the page changed: perhaps not this code.
        let generation = ram.watch_code(block.offset);
        let mut now = [0; MAX_OPS * 15];
        let now = &mut now[..usize::from(block.len)];
        ram.read(block.offset, now);
        let start = block.bytes as usize;
        if self.bytes[start..start + now.len()] != *now {
            return Ok(false);
        }
        self.blocks[index as usize].generation = generation;
        Ok(true)
    }

    fn build(&mut self, core: &mut Core, key: u32, offset: usize, linear: u64, room: u64) -> Flow<u32> {
        if self.ops.len() > CAPACITY {
            self.clear();
            core.forget_blocks();
        }
        let ram = core.memory.clone();
        let ram = ram.ram();
        let generation = ram.watch_code(offset);
        let in_page = (0x1000 - (linear & 0xfff)).min(room) as usize;
        let mut code = [0; MAX_OPS * 15];
        let len = in_page.min(code.len());
        ram.read(offset, &mut code[..len]);
        let start = self.ops.len();
        let mut used = lower::lower_block(key, &code[..len], &mut self.ops);
        let mut second = None;
        if used == 0 {
            // The first instruction isn't complete: it goes on in the next page, or past the segment's limit.
            if in_page as u64 == room {
                return core.raise_code(vector::GP, 0);
            }
            let next_page = core.wrap((linear & !0xfff).wrapping_add(0x1000));
            let Some(next) = fetch_offset(core, next_page)? else {
                return core.raise(vector::UD);
            };
            let next_generation = ram.watch_code(next);
            let more = 15.min(room as usize - len);
            ram.read(next, &mut code[len..len + more]);
            used = lower::lower_one(key, &code[..len + more], &mut self.ops);
            if used == 0 {
                return core.raise_code(vector::GP, 0);
            }
            second = Some((next, next_generation));
        }
        let count = self.ops.len() - start;
        let instructions = self.ops[start..].iter().map(|op| op.count).sum();
        let bytes = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&code[..used]);
        let head = &mut self.heads[hash_offset(offset, key)];
        let index = self.blocks.len() as u32;
        self.blocks.push(Block {
            offset,
            key,
            generation,
            start: start as u32,
            count: count as u8,
            len: used as u16,
            instructions,
            bytes,
            next: *head,
            second,
        });
        *head = index;
        Ok(index)
    }
}

/// Checks RIP; returns how many bytes of code the segment has from there.
fn check_fetch(core: &mut Core) -> Flow<u64> {
    if core.code == CodeSize::Bits64 {
        if is_canonical(core.rip) { Ok(0x10_0000) } else { core.raise_code(vector::GP, 0) }
    } else {
        let limit = u64::from(core.segments[CS].limit);
        if core.rip <= limit { Ok(limit - core.rip + 1) } else { core.raise_code(vector::GP, 0) }
    }
}

/// Where code at a linear address is in host memory; `None` where there is none.
fn fetch_offset(core: &mut Core, linear: u64) -> Flow<Option<usize>> {
    let user = core.cpl == 3;
    let set = if user { Set::User } else { Set::Supervisor };
    if let Some(offset) = core.tlb.find_in(set, Access::Fetch, linear) {
        return Ok(Some(offset));
    }
    Ok(match core.locate(linear, Access::Fetch, user)? {
        Place::Ram(offset) | Place::Rom(offset, _) => Some(offset),
        Place::Bus(_) => None,
    })
}

/// What has to be the same for a block to be at a linear address still.
#[inline(always)]
fn stamp(core: &Core, key: u32) -> u64 {
    u64::from(core.stamp) << 32 | u64::from(key)
}

#[inline(always)]
fn hash_linear(linear: u64) -> usize {
    (linear ^ linear >> 12) as usize % JUMPS
}

fn hash_offset(offset: usize, key: u32) -> usize {
    let mixed = (offset as u64 ^ u64::from(key) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % HEADS
}
