//! The three messages that consist of a target alone.

use super::target::RawTarget;
use super::{ObjectId, Target, object};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

macro_rules! of_a_target {
    ($(#[$meta:meta])* $name:ident, $object:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// What it is about.
            pub target: Target,
        }

        impl $name {
            /// Size of the message in bytes.
            pub const SIZE: usize = 7;

            /// Reads the message.
            pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                object(reader, $object)?;
                Ok(Self { target: RawTarget::read(reader)?.without_status()? })
            }

            /// Writes the message.
            pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
                writer.u8($object.0)?;
                self.target.write(writer, 0)
            }
        }
    };
}

of_a_target! {
    /// `K_SET_GO`: use the key of a slot from now on. 7 bytes.
    KSetGo, ObjectId::K_SET_GO
}
of_a_target! {
    /// `K_SET_STOP`: forget the key of a slot. 7 bytes.
    KSetStop, ObjectId::K_SET_STOP
}
of_a_target! {
    /// `K_GOSTOP_ACK`: answers [`KSetGo`] and [`KSetStop`]. 7 bytes.
    KGoStopAck, ObjectId::K_GOSTOP_ACK
}
