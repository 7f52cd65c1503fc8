//! Bodies for the messages of SPDM: bytes are refused in a line, or read, and then written as they
//! were read.

use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use spdm::ids::Version;
use spdm::msg::{
    self, Asked, Layout, MeasurementBlocks, OpaqueData, OpaqueElement, Request, Response, Stage,
};
use spdm::wire::{DecodeError, NoSpace, Reader, Writer};

/// What was agreed on, by the bits of one byte.
fn stage(choice: u8) -> Stage {
    let bit = |bit: u8| usize::from(choice >> bit & 1);
    let version = Version::SPOKEN[bit(0)];
    match choice >> 6 {
        0 => Stage::Start,
        1 => Stage::Version(version),
        _ => Stage::Agreed(Layout {
            version,
            suite: Suite {
                hash: HashAlgo::ALL[bit(1)],
                asym: AsymAlgo::ALL[bit(2)],
                dhe: Some(DheGroup::ALL[bit(3)]),
                aead: Some(AeadAlgo::Aes256Gcm),
                measurement_hash: Some(MeasurementHash::Hash(HashAlgo::ALL[bit(4)])),
            },
            handshake_in_clear: bit(5) == 1,
        }),
    }
}

fn told(error: DecodeError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "no line: {text:?}");
}

/// `write` writes `bytes` where they fit, and nothing where they do not.
fn canonical(bytes: &[u8], write: impl Fn(&mut Writer<'_>) -> Result<(), NoSpace>) {
    let mut buffer = vec![0; bytes.len()];
    let written = msg::encode(&mut buffer, &write).expect("as much room as it took");
    assert_eq!(written, bytes);
    let short = bytes.len() - 1;
    assert_eq!(msg::encode(&mut buffer[..short], &write), Err(NoSpace(short)));
}

/// What holds for every message: `read` takes the same from its exact bytes, with and without
/// padding, and refuses what follows it.
fn sound<'a, T: PartialEq + std::fmt::Debug>(
    bytes: &'a [u8],
    read: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Option<(T, &'a [u8])> {
    let mut reader = Reader::new(bytes);
    let message = match read(&mut reader) {
        Ok(message) => message,
        Err(error) => {
            told(error);
            return None;
        }
    };
    let (exact, rest) = bytes.split_at(bytes.len() - reader.left());
    assert_eq!(msg::exact(exact, &read).as_ref(), Ok(&message));
    match msg::exact(bytes, &read) {
        Ok(_) => assert!(rest.is_empty()),
        Err(error) => assert_eq!(error, DecodeError::Trailing { extra: rest.len() }),
    }
    let zeros = rest.len() <= 3 && rest.iter().all(|byte| *byte == 0);
    assert_eq!(msg::padded(bytes, &read).map(|(_, size)| size).ok(), zeros.then_some(exact.len()));
    Some((message, exact))
}

/// A request at a stage that the first byte tells.
pub fn spdm_request(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let stage = stage(*choice);
    if let Some((message, bytes)) = sound(bytes, |reader| Request::read(reader, &stage)) {
        assert_eq!(message.code().0, bytes[1]);
        canonical(bytes, |writer| message.write(writer));
    }
}

/// A response at a stage and to a request that the first two bytes tell.
pub fn spdm_response(data: &[u8]) {
    let Some(([choice, asked], bytes)) = data.split_first_chunk() else { return };
    let stage = stage(*choice);
    let asked = Asked { summary: asked & 1 != 0, signature: asked & 2 != 0 };
    if let Some((message, bytes)) = sound(bytes, |reader| Response::read(reader, &stage, asked)) {
        assert_eq!(message.code().0, bytes[1]);
        canonical(bytes, |writer| message.write(writer));
        if let Response::Measurements(message) = message {
            assert_eq!(MeasurementBlocks::new(message.record).flatten().count(), usize::from(message.blocks));
        }
    }
}

/// Opaque data, and a record of measurements.
pub fn spdm_opaque(data: &[u8]) {
    match OpaqueData::parse(data) {
        Ok(opaque) => {
            let elements: Vec<OpaqueElement<'_>> = opaque.elements().collect();
            canonical(data, |writer| OpaqueData::write(writer, &elements));
            for refused in [opaque.supported_versions().err(), opaque.selected_version().err()] {
                refused.into_iter().for_each(told);
            }
        }
        Err(error) => told(error),
    }
    let mut read = 0;
    for block in MeasurementBlocks::new(data) {
        match block {
            Ok(block) => {
                let bytes = &data[read..read + block.size()];
                canonical(bytes, |writer| block.write(writer));
                read += block.size();
            }
            Err(error) => {
                told(error);
                return;
            }
        }
    }
    assert_eq!(read, data.len());
}
