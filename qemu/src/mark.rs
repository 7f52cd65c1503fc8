//! What translation tells execution of an instruction, in one pointer's worth of bits.

use std::ffi::c_void;

use crate::decode::{Decoded, Kind, Operation, decode};

/// An instruction that is caught: where in its page it lies, and what it is if that is settled.
///
/// Bits 11:0 offset in the page, 15:12 length (0: to be decoded), 18:16 kind, 19 kernel code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(usize);

const OFFSET: u64 = 0xFFF;
const KERNEL: usize = 1 << 19;

/// Instructions without operands: length and kind are all there is to know.
const PLAIN: [(Kind, Operation); 4] = [
    (Kind::Seamcall, Operation::Seamcall),
    (Kind::Rdmsr, Operation::Rdmsr),
    (Kind::Wrmsr, Operation::Wrmsr),
    (Kind::Cpuid, Operation::Cpuid),
];

impl Mark {
    /// Only the place.
    fn place(address: u64) -> Self {
        // An offset in a page fits any integer.
        Self(usize::try_from(address & OFFSET).unwrap_or(0))
    }

    /// An instruction with the bytes that QEMU read of it.
    pub(crate) fn caught(address: u64, kind: Kind, bytes: &[u8]) -> Self {
        let place = Self::place(address);
        let plain = (0..).zip(PLAIN).find(|(_, (plain, _))| *plain == kind);
        match (plain, decode(bytes, address)) {
            (Some((number, _)), Ok(decoded)) => {
                Self(place.0 | usize::from(decoded.length) << 12 | number << 16)
            }
            _ => place,
        }
    }

    /// The same, in 64-bit code at CPL 0. QEMU keeps translations of each mode apart, so that what
    /// holds at translation holds at each execution.
    pub(crate) fn in_kernel(self, yes: bool) -> Self {
        if yes { Self(self.0 | KERNEL) } else { self }
    }

    /// True for 64-bit code at CPL 0, false if that is not known.
    pub(crate) fn is_in_kernel(self) -> bool {
        self.0 & KERNEL != 0
    }

    /// Bytes of the instruction; 0 if they need a second look.
    pub(crate) fn length(self) -> u64 {
        self.0 as u64 >> 12 & 0xF
    }

    /// The offset of the instruction in its page.
    pub(crate) fn offset_in_page(self) -> u64 {
        self.0 as u64 & OFFSET
    }

    /// The instruction, if its bytes need no second look.
    pub(crate) fn decoded(self) -> Option<Decoded> {
        let length = u8::try_from(self.0 >> 12 & 0xF).ok().filter(|&length| length != 0)?;
        let (_, operation) = *PLAIN.get(self.0 >> 16 & 7)?;
        Some(Decoded { length, operation })
    }

    /// As QEMU carries it.
    pub(crate) fn to_userdata(self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0)
    }

    /// As QEMU hands it back.
    pub(crate) fn from_userdata(userdata: *mut c_void) -> Self {
        Self(userdata.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(bytes: &[u8]) -> Mark {
        let kind = crate::decode::is_candidate(bytes).unwrap();
        let mark = Mark::caught(0xffff_ffff_8123_4567, kind, bytes);
        assert_eq!(mark.offset_in_page(), 0x567);
        Mark::from_userdata(mark.to_userdata())
    }

    #[test]
    fn the_mode_changes_nothing_else() {
        let mark = carried(&[0x66, 0x0F, 0x01, 0xCF]);
        let kernel = mark.in_kernel(true);
        assert_eq!((mark.is_in_kernel(), kernel.is_in_kernel()), (false, true));
        assert_eq!((kernel.decoded(), kernel.offset_in_page()), (mark.decoded(), mark.offset_in_page()));
        assert_eq!(mark.in_kernel(false), mark);
    }

    #[test]
    fn instructions_without_operands_are_decoded_once() {
        for (bytes, operation) in [
            (&[0x66, 0x0F, 0x01, 0xCF][..], Operation::Seamcall),
            (&[0x0F, 0x32], Operation::Rdmsr),
            (&[0x0F, 0x30], Operation::Wrmsr),
            (&[0x0F, 0xA2], Operation::Cpuid),
        ] {
            let mark = carried(bytes);
            assert_eq!(
                mark.decoded(),
                Some(Decoded { length: u8::try_from(bytes.len()).unwrap(), operation })
            );
            assert_eq!((mark.offset_in_page(), mark.length()), (0x567, bytes.len() as u64));
        }
    }

    #[test]
    fn instructions_with_operands_are_read_again() {
        // MOV CR4 to RAX; VMXON cut off before its displacement.
        for bytes in [&[0x0F, 0x20, 0xE0][..], &[0xF3, 0x0F, 0xC7, 0x75]] {
            assert_eq!(carried(bytes).decoded(), None, "{bytes:02x?}");
        }
    }
}
