//! PCI Express as a TEE-IO host and device see it: addresses of functions, configuration space,
//! DOE mailboxes and IDE register blocks.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | segment, bus, device and function, their text, and the function id of TDISP |
//! | [`config`] | a configuration space and what software may change in it, a builder, walks over both chains |
//! | [`cap`] | capabilities as typed values: PCI Express, MSI-X, AER, SR-IOV, DOE, Device 3 |
//! | [`doe`] | data objects; the mailbox of a device; the driver of a host |
//! | [`ide`] | the IDE capability: streams, their control and status, what belongs to them |
//! | [`functions`] | the functions of a device under one DSM, virtual ones included |
//!
//! A host finds out what a mailbox takes. Neither side has a clock or registers of its own: here the
//! registers of the driver are those of a mailbox.
//!
//! ```
//! use core::time::Duration;
//! use pcie::config::Width;
//! use pcie::doe::{
//!     Capability, Discovery, DoeRegisters, Driver, Mailbox, Object, ObjectType, Step, SupportedTypes,
//! };
//!
//! struct Registers(Mailbox<[u32; 64]>);
//!
//! impl DoeRegisters for Registers {
//!     fn read32(&mut self, offset: u16) -> u32 {
//!         self.0.read(offset, Width::Dword).unwrap()
//!     }
//!
//!     fn write32(&mut self, offset: u16, value: u32) {
//!         self.0.write(offset, Width::Dword, value).unwrap();
//!     }
//! }
//!
//! let mut device = Registers(Mailbox::new([0; 64], SupportedTypes::SPDM, Capability::new()));
//! let mut driver = Driver::new();
//! let mut discovery = Discovery::new(2);
//! let mut types = Vec::new();
//! while let Some(request) = discovery.request() {
//!     let request = Object { object_type: ObjectType::DISCOVERY, payload: &request };
//!     let mut response = [0; 4];
//!     let step = driver.exchange(request, &mut response).step(&mut device, Duration::ZERO)?;
//!     assert_eq!(step, Step::Done(4));
//!     types.push(discovery.take(&response)?);
//! }
//! assert_eq!(types, [ObjectType::DISCOVERY, ObjectType::SPDM, ObjectType::SECURED_SPDM]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Left out: I/O windows, expansion ROMs, MSI, power management, prefixes of TLPs, and everything that
//! neither a DSM nor its host asks for. What a write to a register leads to beyond its bits (a function
//! reset, a stream that loses its keys) is for whoever owns the function.
//!
//! `no_std`, no `alloc`; no panic on what comes from outside.
#![no_std]

pub mod address;
pub mod cap;
pub mod config;
pub mod doe;
pub mod functions;
pub mod ide;

pub use address::{Bdf, BusAddress, FuncId, FunctionId, Segment};
