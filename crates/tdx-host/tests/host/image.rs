//! Module images made by hand: whole containers, whole SIGSTRUCTs, no signature.

/// CPUID.1:EAX of the fake's CPUs.
pub(crate) const CPU: u32 = 0x8_06F8;

/// What tests vary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) svn: [u8; 2],
    pub(crate) cpu: u32,
    pub(crate) debug: bool,
    pub(crate) vendor: u32,
    pub(crate) pages: u32,
    /// Oldest and newest hand-off version.
    pub(crate) handoff: [u16; 2],
}

impl Default for Made {
    fn default() -> Self {
        Self { svn: [7, 1], cpu: CPU, debug: false, vendor: 0x8086, pages: 3, handoff: [0, 1] }
    }
}

/// A container with header 0x200.
pub(crate) fn made(what: Made) -> Vec<u8> {
    let mut file = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
    put(0, &0x200u16.to_le_bytes());
    put(4, b"TDX-BLOB");
    put(12, &1u32.to_le_bytes());
    put(16, &what.pages.to_le_bytes());
    let module_type = u32::from(what.debug) << 31;
    let words = [6, 0xE1, 0x1_0000, module_type, what.vendor, 0x2025_0219, 0x200, 0x60, 0x60, 1];
    for (word, at) in words.into_iter().zip((4096..).step_by(4)) {
        put(at, &u32::to_le_bytes(word));
    }
    put(4096 + 0x200, &0x1_0001u32.to_le_bytes());
    put(4096 + 0x3B4, &what.svn);
    put(4096 + 0x3BE, &0x1000u32.to_le_bytes());
    put(4096 + 0x3D8, &what.handoff[1].to_le_bytes());
    put(4096 + 0x3DA, &what.handoff[0].to_le_bytes());
    put(4096 + 0x400, &1u32.to_le_bytes());
    put(4096 + 0x404, &what.cpu.to_le_bytes());
    let pages = (0..what.pages).flat_map(|page| [u8::try_from(page % 251).unwrap() + 1; 4096]);
    file.extend(pages);
    let sum = file.chunks(2).fold(0u16, |sum, pair| sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]])));
    file[2..4].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    file
}
