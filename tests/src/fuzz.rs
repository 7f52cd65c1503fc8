//! Fuzz bodies: plain functions that take any bytes and panic when a promise is broken.
//!
//! `cargo test` runs each of them briefly; the targets in `fuzz/` run them for as long as one likes.
//! One body per parser, and one per family of SEAMCALL leaves.

mod abi;
mod acpi;
mod bytes;
mod endpoint;
mod image;
mod mapping;
mod memory;
mod pcie;
mod requester;
mod responder;
mod seamcall;
mod secured;
mod spdm;
mod teeio;
mod text;
mod upload;
mod x509;

pub use self::pcie::{config_space, doe_mailbox, doe_object};
pub use abi::{metadata_list, wire_words};
pub use acpi::keyp_table;
pub use endpoint::{device_file, dsm_socket, endpoint_config};
pub use image::{image_file, sigstruct_and_relocations};
pub use mapping::mapping_file;
pub use memory::memory_by_keyid;
pub use requester::{saved_session, spdm_requester};
pub use responder::spdm_responder;
pub use seamcall::{
    any_leaf, boot_image, guest_memory, guest_platform, handoff_data, seamldr_install, seamldr_leaves,
    sys_config, sys_disable, sys_handoff, sys_init, sys_key_and_tdmr, sys_reads,
};
pub use secured::secured_message;
pub use spdm::{spdm_opaque, spdm_request, spdm_response};
pub use teeio::{ide_km, ide_tlp, tdisp};
pub use text::{dmesg_capture, dmesg_explain, explain_words, platform_file, scenario_file};
pub use upload::upload_files;
pub use x509::cert_chain;

/// A fuzz body.
pub type Body = fn(&[u8]);

/// Every body by its name, which is also that of its fuzz target.
pub const BODIES: &[(&str, Body)] = &[
    ("platform_file", platform_file),
    ("scenario_file", scenario_file),
    ("dmesg_capture", dmesg_capture),
    ("dmesg_explain", dmesg_explain),
    ("explain_words", explain_words),
    ("metadata_list", metadata_list),
    ("wire_words", wire_words),
    ("sys_init", sys_init),
    ("sys_reads", sys_reads),
    ("sys_config", sys_config),
    ("sys_key_and_tdmr", sys_key_and_tdmr),
    ("sys_disable", sys_disable),
    ("sys_handoff", sys_handoff),
    ("seamldr_leaves", seamldr_leaves),
    ("seamldr_install", seamldr_install),
    ("handoff_data", handoff_data),
    ("any_leaf", any_leaf),
    ("memory_by_keyid", memory_by_keyid),
    ("guest_memory", guest_memory),
    ("guest_platform", guest_platform),
    ("boot_image", boot_image),
    ("image_file", image_file),
    ("sigstruct_and_relocations", sigstruct_and_relocations),
    ("mapping_file", mapping_file),
    ("upload_files", upload_files),
    ("secured_message", secured_message),
    ("spdm_request", spdm_request),
    ("spdm_response", spdm_response),
    ("spdm_opaque", spdm_opaque),
    ("spdm_requester", spdm_requester),
    ("saved_session", saved_session),
    ("doe_object", doe_object),
    ("doe_mailbox", doe_mailbox),
    ("config_space", config_space),
    ("keyp_table", keyp_table),
    ("spdm_responder", spdm_responder),
    ("ide_km", ide_km),
    ("tdisp", tdisp),
    ("ide_tlp", ide_tlp),
    ("device_file", device_file),
    ("dsm_socket", dsm_socket),
    ("endpoint_config", endpoint_config),
    ("cert_chain", cert_chain),
];
