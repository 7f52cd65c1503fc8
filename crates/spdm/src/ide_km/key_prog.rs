use super::target::RawTarget;
use super::{IdeKey, Ifv, ObjectId, Target, object};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `KEY_PROG`: brings a key. 47 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProg {
    /// Where it belongs.
    pub target: Target,
    /// The key.
    pub key: IdeKey,
    /// What its counter starts with.
    pub ifv: Ifv,
}

impl KeyProg {
    /// Size of the message in bytes.
    pub const SIZE: usize = 47;

    /// Reads the message.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        object(reader, ObjectId::KEY_PROG)?;
        let target = RawTarget::read(reader)?.without_status()?;
        let (key, ifv) = Self::read_key(reader)?;
        Ok(Self { target, key, ifv })
    }

    /// Key and invocation field, behind the target.
    pub(super) fn read_key(reader: &mut Reader<'_>) -> Result<(IdeKey, Ifv), DecodeError> {
        let key = IdeKey::from_wire(reader.array("key")?);
        Ok((key, Ifv::from_wire(reader.array("IFV")?)))
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(ObjectId::KEY_PROG.0)?;
        self.target.write(writer, 0)?;
        writer.bytes(&*self.key.to_wire())?;
        writer.bytes(&self.ifv.to_wire())
    }
}
