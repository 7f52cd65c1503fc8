//! Error numbers as a device or ioctl returns them.

use core::fmt;

/// A positive error number of the generic table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        impl Errno {
            $(#[doc = $meaning] pub const $name: Self = Self($number);)*

            /// The name of a known number.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Not permitted.";
    ENOENT = 2, "No such attribute.";
    EIO = 5, "The module answered with an error.";
    ENXIO = 6, "The information does not exist.";
    ENOMEM = 12, "No memory.";
    EACCES = 13, "The CPU is not in VMX operation.";
    EFAULT = 14, "VMXON faulted.";
    EBUSY = 16, "In use.";
    ENODEV = 19, "No such device, or nothing answers.";
    EINVAL = 22, "Not usable as it is.";
    EFBIG = 27, "Larger than what is taken.";
    ENOSPC = 28, "A limit is exhausted.";
    EOPNOTSUPP = 95, "The platform does not offer it.";
    ESHUTDOWN = 108, "Going down.";
    ECANCELED = 125, "Called off.";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "-{name}"),
            None => write!(f, "-{}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
