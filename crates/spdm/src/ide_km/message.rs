use super::{KGoStopAck, KSetGo, KSetStop, KeyProg, KpAck, ObjectId, Query, QueryResp};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Any message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `QUERY`.
    Query(Query),
    /// `QUERY_RESP`.
    QueryResp(QueryResp<'a>),
    /// `KEY_PROG`.
    KeyProg(KeyProg),
    /// `KP_ACK`.
    KpAck(KpAck),
    /// `K_SET_GO`.
    KSetGo(KSetGo),
    /// `K_SET_STOP`.
    KSetStop(KSetStop),
    /// `K_GOSTOP_ACK`.
    KGoStopAck(KGoStopAck),
}

impl<'a> Message<'a> {
    /// Reads a message that fills `bytes`, which begin behind the protocol id.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let object = ObjectId(reader.clone().u8("object id")?);
        let message = match object {
            ObjectId::QUERY => Self::Query(Query::read(&mut reader)?),
            ObjectId::QUERY_RESP => Self::QueryResp(QueryResp::read(&mut reader)?),
            ObjectId::KEY_PROG => Self::KeyProg(KeyProg::read(&mut reader)?),
            ObjectId::KP_ACK => Self::KpAck(KpAck::read(&mut reader)?),
            ObjectId::K_SET_GO => Self::KSetGo(KSetGo::read(&mut reader)?),
            ObjectId::K_SET_STOP => Self::KSetStop(KSetStop::read(&mut reader)?),
            ObjectId::K_GOSTOP_ACK => Self::KGoStopAck(KGoStopAck::read(&mut reader)?),
            ObjectId(code) => return Err(DecodeError::UnknownCode(code)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            Self::Query(message) => message.write(writer),
            Self::QueryResp(message) => message.write(writer),
            Self::KeyProg(message) => message.write(writer),
            Self::KpAck(message) => message.write(writer),
            Self::KSetGo(message) => message.write(writer),
            Self::KSetStop(message) => message.write(writer),
            Self::KGoStopAck(message) => message.write(writer),
        }
    }

    /// What it is.
    pub const fn object(&self) -> ObjectId {
        match self {
            Self::Query(_) => ObjectId::QUERY,
            Self::QueryResp(_) => ObjectId::QUERY_RESP,
            Self::KeyProg(_) => ObjectId::KEY_PROG,
            Self::KpAck(_) => ObjectId::KP_ACK,
            Self::KSetGo(_) => ObjectId::K_SET_GO,
            Self::KSetStop(_) => ObjectId::K_SET_STOP,
            Self::KGoStopAck(_) => ObjectId::K_GOSTOP_ACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::{
        IdeKey, Ifv, KeySelector, KpStatus, PortIndex, PortLocation, Registers, StreamId, Target,
    };
    use super::*;

    const TARGET: Target = Target { stream: StreamId(0x5a), key: KeySelector(0x23), port: PortIndex(1) };

    fn written(message: &Message<'_>) -> Vec<u8> {
        let mut buffer = [0xee; 64];
        let mut writer = Writer::new(&mut buffer);
        message.write(&mut writer).unwrap();
        writer.finish().to_vec()
    }

    /// Every message with its bytes as the tables of the protocol have them.
    fn all() -> [(Message<'static>, Vec<u8>); 7] {
        let mut key_prog = alloc::vec![2, 0, 0, 0x5a, 0, 0x23, 1];
        key_prog.extend([0x40, 0x30, 0x20, 0x10].repeat(8));
        key_prog.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        let mut key = [0x10, 0x20, 0x30, 0x40].repeat(8);
        key.truncate(32);
        let key = IdeKey::new(key.try_into().unwrap());
        let registers = Registers::from_bytes(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let location = PortLocation { segment: 3, bus: 0x3b, device_function: 0x11 };
        [
            (Message::Query(Query { port: PortIndex(7) }), alloc::vec![0, 0, 7]),
            (
                Message::QueryResp(QueryResp {
                    port: PortIndex(1),
                    location,
                    max_port: PortIndex(2),
                    registers,
                }),
                alloc::vec![1, 0, 1, 0x11, 0x3b, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8],
            ),
            (Message::KeyProg(KeyProg { target: TARGET, key, ifv: Ifv::INITIAL }), key_prog),
            (
                Message::KpAck(KpAck { target: TARGET, status: KpStatus::UNSUPPORTED_PORT }),
                alloc::vec![3, 0, 0, 0x5a, 2, 0x23, 1],
            ),
            (Message::KSetGo(KSetGo { target: TARGET }), alloc::vec![4, 0, 0, 0x5a, 0, 0x23, 1]),
            (Message::KSetStop(KSetStop { target: TARGET }), alloc::vec![5, 0, 0, 0x5a, 0, 0x23, 1]),
            (Message::KGoStopAck(KGoStopAck { target: TARGET }), alloc::vec![6, 0, 0, 0x5a, 0, 0x23, 1]),
        ]
    }

    #[test]
    fn every_message_has_the_bytes_of_the_tables() {
        for (message, bytes) in all() {
            assert_eq!(written(&message), bytes, "{}", message.object());
            assert_eq!(Message::read(&bytes), Ok(message));
        }
    }

    #[test]
    fn a_message_that_ends_early_or_late_is_refused() {
        for (message, bytes) in all() {
            for end in 0..bytes.len() {
                let whole_registers =
                    message.object() == ObjectId::QUERY_RESP && end >= 7 && (end - 7) % 4 == 0;
                assert_eq!(
                    Message::read(&bytes[..end]).is_ok(),
                    whole_registers,
                    "{} to {end}",
                    message.object()
                );
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Message::read(&longer).is_err(), "{}", message.object());
        }
    }

    #[test]
    fn reserved_fields_must_be_zero() {
        let reserved = [
            (0, &[1][..]),
            (1, &[1]),
            (2, &[1, 2, 4]),
            (3, &[1, 2]),
            (4, &[1, 2, 4]),
            (5, &[1, 2, 4]),
            (6, &[1, 2, 4]),
        ];
        for (((message, mut bytes), (code, at)), _) in all().into_iter().zip(reserved).zip(0..) {
            assert_eq!(message.object().0, code);
            for &at in at {
                bytes[at] = 0x80;
                let refused = Message::read(&bytes);
                assert!(
                    matches!(refused, Err(DecodeError::Reserved { .. })),
                    "{} at {at}: {refused:?}",
                    message.object()
                );
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn an_unknown_object_is_named() {
        assert_eq!(Message::read(&[7, 0, 0]), Err(DecodeError::UnknownCode(7)));
    }

    #[test]
    fn a_key_slot_that_does_not_exist_is_refused_but_for_an_echo() {
        let bytes = |object| [object, 0, 0, 0, 0, 0x30, 0];
        let refused = Err(DecodeError::Value { field: "key and sub-stream", value: 0x30 });
        assert_eq!(Message::read(&bytes(4)), refused);
        assert_eq!(Message::read(&bytes(5)), refused);
        assert!(Message::read(&bytes(3)).is_ok(), "KP_ACK echoes what was asked");
    }
}
