//! Messages of all kinds: written, read back, bent and refused.

mod inside;
mod refused_requests;
mod refused_responses;
mod round_trip;
mod samples;

use alloc::vec::Vec;

use crate::wire::{DecodeError, NoSpace, Writer};

use super::{Asked, Request, Response, Stage, exact};

/// The bytes that `write` writes.
fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>) -> Vec<u8> {
    let mut buffer = alloc::vec![0xa5; 4096];
    super::encode(&mut buffer, write).expect("samples are small").to_vec()
}

fn request_error(stage: Stage, bytes: &[u8]) -> Option<DecodeError> {
    exact(bytes, |reader| Request::read(reader, &stage)).err()
}

fn response_error(stage: Stage, asked: Asked, bytes: &[u8]) -> Option<DecodeError> {
    exact(bytes, |reader| Response::read(reader, &stage, asked)).err()
}

/// `bytes` with others at some places.
fn changed(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in changes {
        bytes[*at] = *value;
    }
    bytes
}

const fn reserved(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Reserved { field, value }
}

const fn value(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Value { field, value }
}

const fn length(field: &'static str, value: usize, limit: usize) -> DecodeError {
    DecodeError::Length { field, value, limit }
}
