//! The native side: a KVM guest.
#![allow(unsafe_code)]

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::machine::{
    CODE, DATA, DATA_LEN, FS_BASE, GDT, GS_BASE, HANDLERS, IDT, MEMORY, Mode, ROOT, State, TSS, frame, memory_image,
};
use ferro_guest::Ram;

/// A KVM guest and its memory.
pub struct Native {
    vcpu: VcpuFd,
    sregs: kvm_sregs,
    memory: Ram,
    intel: bool,
    _vm: VmFd,
}

fn segment(selector: u16, attributes: u32) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: (attributes & 15) as u8,
        s: (attributes >> 4 & 1) as u8,
        dpl: (attributes >> 5 & 3) as u8,
        present: (attributes >> 7 & 1) as u8,
        avl: 0,
        l: (attributes >> 13 & 1) as u8,
        db: (attributes >> 14 & 1) as u8,
        g: (attributes >> 15 & 1) as u8,
        ..Default::default()
    }
}

impl Native {
    /// A guest in long mode, or why there can't be one.
    pub fn new() -> Result<Self, String> {
        let text = |error: kvm_ioctls::Error| format!("KVM refused: {error}");
        let kvm = Kvm::new().map_err(|error| format!("/dev/kvm can't be opened: {error}"))?;
        let vm = kvm.create_vm().map_err(text)?;
        let memory = Ram::new(MEMORY as u64).map_err(|error| error.to_string())?;
        memory.write(0, &memory_image());
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.host_address() as u64,
        };
        // SAFETY: the mapping lives in `Self` beside the VM, which is dropped with it.
        unsafe { vm.set_user_memory_region(region) }.map_err(text)?;
        let vcpu = vm.create_vcpu(0).map_err(text)?;
        let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(text)?;
        vcpu.set_cpuid2(&cpuid).map_err(text)?;
        let vendor = cpuid.as_slice().iter().find(|leaf| leaf.function == 0).map(|leaf| leaf.ebx.to_le_bytes());
        let mut sregs = vcpu.get_sregs().map_err(text)?;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = ROOT;
        sregs.cr4 = 0x620;
        sregs.efer = 0xd01;
        let data = segment(0x1b, 0xc0f3);
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.gdt.base = GDT;
        sregs.gdt.limit = 63;
        sregs.idt.base = IDT;
        sregs.idt.limit = 511;
        (sregs.fs.base, sregs.gs.base) = (FS_BASE, GS_BASE);
        sregs.tr = kvm_segment { base: TSS, limit: 0x67, ..segment(0x30, 0x8b) };
        Ok(Self { vcpu, sregs, memory, intel: vendor == Some(*b"Genu"), _vm: vm })
    }

    /// Whether the silicon is Intel's, whose choices Ferro's CPU makes where the vendors differ.
    pub fn is_intel(&self) -> bool {
        self.intel
    }

    /// Executes code from a state until a handler is entered; `None` if it never is.
    pub fn run(&mut self, mode: Mode, code: &[u8], state: &State) -> Option<State> {
        self.memory.write(CODE as usize, code);
        self.memory.write(DATA as usize, &state.data);
        let mut sregs = self.sregs;
        sregs.cr2 = 0;
        sregs.cs = match mode {
            Mode::Long => segment(0x23, 0xa0fb),
            Mode::Compatible => segment(0x13, 0xc0fb),
        };
        self.vcpu.set_sregs(&sregs).ok()?;
        let g = state.gpr;
        let regs = kvm_regs {
            rax: g[0],
            rcx: g[1],
            rdx: g[2],
            rbx: g[3],
            rsp: g[4],
            rbp: g[5],
            rsi: g[6],
            rdi: g[7],
            r8: g[8],
            r9: g[9],
            r10: g[10],
            r11: g[11],
            r12: g[12],
            r13: g[13],
            r14: g[14],
            r15: g[15],
            rip: state.rip,
            rflags: state.rflags,
        };
        self.vcpu.set_regs(&regs).ok()?;
        self.set_fpu(state)?;
        match self.vcpu.run() {
            Ok(VcpuExit::Hlt) => self.collect(),
            _ => None,
        }
    }

    /// Through the XSAVE image: of what KVM_SET_FPU takes, hosts that use XSAVE may drop a part.
    fn set_fpu(&mut self, state: &State) -> Option<()> {
        let mut image = [0; 4096];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &state.fcw.to_le_bytes());
        put(2, &state.fsw.to_le_bytes());
        put(4, &[state.ftw]);
        put(24, &state.mxcsr.to_le_bytes());
        put(28, &0xffff_u32.to_le_bytes());
        for index in 0..8 {
            put(32 + 16 * index, &state.st[index].to_le_bytes());
        }
        for index in 0..16 {
            put(160 + 16 * index, &state.xmm[index].to_le_bytes());
        }
        put(512, &3_u64.to_le_bytes());
        let mut xsave = kvm_bindings::kvm_xsave::default();
        for (word, bytes) in xsave.region.iter_mut().zip(image.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // SAFETY: no dynamically enabled feature (AMX) is in use, so the state fits the structure's 4096 bytes.
        unsafe { self.vcpu.set_xsave(&xsave) }.ok()
    }

    fn collect(&mut self) -> Option<State> {
        let regs = self.vcpu.get_regs().ok()?;
        let xsave = self.vcpu.get_xsave().ok()?;
        let image: Vec<u8> = xsave.region.iter().take(136).flat_map(|word| word.to_le_bytes()).collect();
        let wide = |at: usize| u128::from_le_bytes(image[at..at + 16].try_into().unwrap_or_default());
        let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        // Parts in their initial state aren't in the image.
        let (x87, sse) = (image[512] & 1 != 0, image[512] & 2 != 0);
        let vector = regs.rip.checked_sub(HANDLERS)? / 16;
        let cr2 = if vector == 14 { self.vcpu.get_sregs().ok()?.cr2 } else { 0 };
        let load = |address: u64| self.memory.load::<u64>(address as usize % (MEMORY - 8));
        let (error, rip, rflags, rsp) = frame(load, regs.rsp, vector);
        let mut data = vec![0; DATA_LEN];
        self.memory.read(DATA as usize, &mut data);
        Some(State {
            gpr: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
                regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            rip,
            rflags,
            vector,
            error,
            cr2,
            xmm: std::array::from_fn(|index| if sse { wide(160 + 16 * index) } else { 0 }),
            mxcsr: u32::from(half(24)),
            st: std::array::from_fn(|index| if x87 { wide(32 + 16 * index) & (u128::MAX >> 48) } else { 0 }),
            fcw: if x87 { half(0) } else { 0x37f },
            fsw: if x87 { half(2) } else { 0 },
            ftw: if x87 { image[4] } else { 0 },
            data,
        })
    }
}
