//! The cache of lowered code: blocks by where their bytes are in host memory and by the mode they were lowered for, and
//! a direct-mapped table from linear addresses to blocks. What is in a block is `lower`'s affair.

use crate::core::{Bus, CodeSize, Core, Flow, Op, vector};
use crate::lower::{self, MAX_OPS};
use crate::memory::is_canonical;
use crate::paging::Place;
use crate::registers::CS;
use crate::tlb::{Access, Set};

const JUMPS: usize = 8192;
const HEADS: usize = 1 << 15;
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
    pub(crate) count: u16,
    /// Bytes of code.
    pub(crate) len: u16,
    /// Its bytes in [`Cache::bytes`].
    bytes: u32,
    /// Next block of the same hash.
    next: u32,
    /// For an instruction that crosses into another page: where that is, and its generation.
    second: Option<(usize, u32)>,
}

#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    stamp: u64,
    block: u32,
}

/// All cached code of one CPU.
pub(crate) struct Cache {
    ops: Vec<Op>,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    heads: Box<[u32]>,
    jumps: Box<[Jump]>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            ops: Vec::new(),
            bytes: Vec::new(),
            blocks: Vec::new(),
            heads: vec![NONE; HEADS].into(),
            jumps: vec![Jump { linear: 0, stamp: 0, block: 0 }; JUMPS].into(),
        }
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
        self.blocks.clear();
        self.heads.fill(NONE);
        self.jumps.fill(Jump { linear: 0, stamp: 0, block: 0 });
    }

    #[inline(always)]
    pub(crate) fn block(&self, index: u32) -> (&Block, &[Op]) {
        let block = &self.blocks[index as usize];
        let start = block.start as usize;
        (block, &self.ops[start..start + usize::from(block.count)])
    }

    /// The block at the CPU's RIP.
    #[inline(always)]
    pub(crate) fn find(&mut self, core: &mut Core, bus: &mut Bus<'_>) -> Flow<u32> {
        let linear = core.segments[CS].base.wrapping_add(core.rip);
        let stamp = u64::from(core.stamp) << 32 | u64::from(core.key);
        let jump = &self.jumps[hash_linear(linear)];
        if jump.linear == linear && jump.stamp == stamp {
            return Ok(jump.block);
        }
        self.find_slow(core, bus, linear, stamp)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, core: &mut Core, bus: &mut Bus<'_>, linear: u64, stamp: u64) -> Flow<u32> {
        let room = check_fetch(core)?;
        let linear = core.wrap(linear);
        let Some(offset) = fetch_offset(core, linear)? else {
            return core.raise(vector::UD);
        };
        let mut index = self.heads[hash_offset(offset, core.key)];
        while index != NONE {
            let block = self.blocks[index as usize];
            if block.offset == offset && block.key == core.key && u64::from(block.len) <= room {
                if self.is_current(core, index, linear)? {
                    break;
                }
                // A stale one stays in its chain, where nothing can find it, until everything is thrown away.
                self.blocks[index as usize].offset = usize::MAX;
            }
            index = block.next;
        }
        if index == NONE {
            index = self.build(core, bus, offset, linear, room)?;
        }
        // An instruction that crosses pages depends on the second page's translation, too; a stamp vouches for that.
        self.jumps[hash_linear(linear)] =
            Jump { linear: core.segments[CS].base.wrapping_add(core.rip), stamp, block: index };
        Ok(index)
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

    fn build(&mut self, core: &mut Core, _bus: &mut Bus<'_>, offset: usize, linear: u64, room: u64) -> Flow<u32> {
        if self.ops.len() > CAPACITY {
            self.clear();
            core.stamp = core.stamp.wrapping_add(1);
        }
        let ram = core.memory.clone();
        let ram = ram.ram();
        let generation = ram.watch_code(offset);
        let in_page = (0x1000 - (linear & 0xfff)).min(room) as usize;
        let mut code = [0; MAX_OPS * 15];
        let len = in_page.min(code.len());
        ram.read(offset, &mut code[..len]);
        let start = self.ops.len();
        let mut used = lower::lower_block(core.key, &code[..len], &mut self.ops);
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
            used = lower::lower_one(core.key, &code[..len + more], &mut self.ops);
            if used == 0 {
                return core.raise_code(vector::GP, 0);
            }
            second = Some((next, next_generation));
        }
        let count = self.ops.len() - start;
        let bytes = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&code[..used]);
        let head = &mut self.heads[hash_offset(offset, core.key)];
        let index = self.blocks.len() as u32;
        self.blocks.push(Block {
            offset,
            key: core.key,
            generation,
            start: start as u32,
            count: count as u16,
            len: used as u16,
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

#[inline(always)]
fn hash_linear(linear: u64) -> usize {
    (linear ^ linear >> 12) as usize % JUMPS
}

fn hash_offset(offset: usize, key: u32) -> usize {
    (offset ^ offset >> 13 ^ (key as usize) << 9) % HEADS
}
