//! Every fuzz body, briefly: made-up bytes, and inputs that somebody might write, changed here and
//! there.

use std::collections::BTreeSet;
use std::path::Path;

use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use spdm::ids::Version;
use spdm::msg::{self, Asked, Layout, Request, Response, Stage};
use tdx_machine::{Machine, presets};
use tdx_tests::fuzz::{self, BODIES, Body};

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Runs `body` on `runs` inputs of up to `longest` bytes.
fn on_numbers(body: Body, runs: u64, longest: usize) {
    for run in 0..runs {
        let mut numbers = Numbers(run);
        let len = numbers.below(longest);
        body(&numbers.bytes(len));
    }
}

/// `text` as it is, and `copies` times with some lines and bytes changed.
fn on_variants(body: Body, text: &str, copies: u64) {
    body(text.as_bytes());
    for copy in 0..copies {
        let mut numbers = Numbers(copy);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for _ in 0..=numbers.below(3) {
            let (here, there) = (numbers.below(lines.len()), numbers.below(lines.len()));
            match numbers.below(5) {
                0 => drop(lines.remove(here)),
                1 => lines.insert(here, lines[there].clone()),
                2 => lines.swap(here, there),
                3 => lines[here] = other_number(&lines[here], &mut numbers),
                _ => {
                    let mut bytes = std::mem::take(&mut lines[here]).into_bytes();
                    if let Some(byte) = bytes.get_mut(numbers.below(80)) {
                        *byte = numbers.next().to_le_bytes()[0];
                    }
                    lines[here] = String::from_utf8_lossy(&bytes).into_owned();
                }
            }
            if lines.is_empty() {
                lines.push(String::new());
            }
        }
        body(lines.join("\n").as_bytes());
    }
}

/// The line with its last number replaced by one from a border.
fn other_number(line: &str, numbers: &mut Numbers) -> String {
    let Some(end) = line.rfind(|c: char| c.is_ascii_hexdigit() && c.is_ascii_digit()) else {
        return line.to_owned();
    };
    let start = line[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |before| before + 1);
    let values = ["0", "1", "2", "63", "64", "65535", "4294967295", "18446744073709551615", "0x1000", "-1"];
    format!("{}{}{}", &line[..start], values[numbers.below(values.len())], &line[end + 1..])
}

fn files(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

const BOOT_LOG: &str = "\
[    0.000000] Linux version 6.14.0 (buildd@host) #1 SMP
[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
[    0.000000] BIOS-e820: [mem 0x00000000000a0000-0x00000000000fffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000067ffffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000068000000-0x000000008fffffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x000000107fffffff] usable
[    0.000000] ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x7fffffff]
[    0.000000] ACPI: SRAT: Node 0 PXM 0 [mem 0x100000000-0x87fffffff]
[    0.000000] ACPI: SRAT: Node 1 PXM 1 [mem 0x880000000-0x107fffffff]
[    0.500000] smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480+ (family: 0x6, model: 0x8f, stepping: 0x8)
[    1.000000] virt/tdx: BIOS enabled: private KeyID range [64, 128)
[    1.000001] virt/tdx: CMR: [0x100000, 0x67800000)
[    1.000002] virt/tdx: CMR: [0x100000000, 0x107e000000)
[    2.000000] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240129, build_num 698
[    2.100000] virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000090000000000
[    2.200000] virt/tdx: module initialization failed (-22)
";

const MAPPING_FILE: &str = r#"{
  "Header": { "Copyright": "nobody", "Version": "1.0" },
  "tdx_module_releases": [
    {
      "version": "1.5.06",
      "min_module_version_for_td_preserving": "1.5.06",
      "strict_compat_versions": [],
      "min_seamldr_versions": ["1.5.00", "2.0.00"],
      "tdx_feature0": "0xF0FBF"
    },
    {
      "version": "1.5.13",
      "min_module_version_for_td_preserving": "1.5.05",
      "strict_compat_versions": ["1.5.06"],
      "min_seamldr_versions": ["1.5.00"],
      "tdx_feature0": "0x30FBF"
    },
    {
      "version": "1.5.24",
      "min_module_version_for_td_preserving": "1.5.13",
      "min_seamldr_versions": ["1.5.00"],
      "tdx_feature0": "0x2030FBF",
      "new": { "key": [1, 2] }
    },
    {
      "version": "2.0.08",
      "min_module_version_for_td_preserving": "2.0.02",
      "min_seamldr_versions": [],
      "tdx_feature0": "0"
    }
  ]
}
"#;

#[test]
fn bodies_have_names_of_their_own_and_take_nothing_at_all() {
    let names: BTreeSet<_> = BODIES.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), BODIES.len());
    for (_, body) in BODIES {
        body(&[]);
    }
}

#[test]
fn every_body_has_a_target_of_its_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let targets: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(targets, BODIES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn platform_files_are_refused_in_a_line_or_sound() {
    on_numbers(fuzz::platform_file, 200, 400);
    for preset in presets::all() {
        // The largest are read and written only.
        on_variants(fuzz::platform_file, preset.toml, 12);
    }
}

#[test]
fn scenarios_are_refused_in_a_line_or_run() {
    on_numbers(fuzz::scenario_file, 200, 400);
    for text in files("../scenarios") {
        on_variants(fuzz::scenario_file, &text, 20);
    }
    let all_steps = r#"
        name = "every step"
        platform = "tiny"
        [[case]]
        name = "one after the other"
        faults = [{ key-config-entropy = { times = 1 } }]
        steps = [
          { do = "power-on" },
          { do = "bring-up", opt-in = ["TDX_CONNECT"] },
          { do = "allocate-keyid" },
          { do = "offline", cpu = 1 },
          { do = "online", cpu = 1 },
          { do = "free-keyid" },
          { do = "suspend", mode = "s2idle" },
          { do = "resume" },
          { do = "hotplug-memory", start = 4096, size = 4096, expect = "hotplug-outside-tdx-memory" },
          { do = "read", attribute = "version" },
          { do = "inject", fault = "no-vmx" },
          { do = "expect", state = "ready", online = "0-1" },
          { do = "shut-down" },
        ]
        "#;
    on_variants(fuzz::scenario_file, all_steps, 60);
}

#[test]
fn boot_logs_become_sound_platforms() {
    on_numbers(fuzz::dmesg_capture, 200, 400);
    on_variants(fuzz::dmesg_capture, BOOT_LOG, 150);
}

#[test]
fn kernel_logs_are_annotated_line_by_line() {
    on_numbers(fuzz::dmesg_explain, 200, 400);
    on_variants(fuzz::dmesg_explain, BOOT_LOG, 150);
}

#[test]
fn words_are_explained_or_refused_in_a_line() {
    on_numbers(fuzz::explain_words, 300, 60);
    for flags in 0..4u8 {
        for words in [
            "33 0xc000092100000122",
            "TDH.SYS.RD 0xc0000c0000000000 1 2 3 4 5 6",
            "0x8000000000000003",
            "field 0x0a00000300000008",
            "error no-tdx",
            "SYS.CONFIG 0xffffffffffffffff 0xffffffffffffffff",
        ] {
            let body = |data: &[u8]| fuzz::explain_words(&[&[flags], data].concat());
            body(words.as_bytes());
            for cut in 0..words.len() {
                body(&words.as_bytes()[..cut]);
                body(&words.as_bytes()[cut..]);
            }
        }
    }
}

#[test]
fn metadata_lists_are_written_as_they_were_read() {
    on_numbers(fuzz::metadata_list, 500, 300);
    // Two sequences of one element, cut and with each byte changed.
    let mut list = Vec::new();
    for word in [0x28_u64 | 2 << 16, 0x0A00_0003_0000_0008, 7, 0x0A00_0002_0000_0009, 9] {
        list.extend(word.to_le_bytes());
    }
    fuzz::metadata_list(&list);
    for place in 0..list.len() {
        fuzz::metadata_list(&list[..place]);
        for bit in 0..8 {
            let mut changed = list.clone();
            changed[place] ^= 1 << bit;
            fuzz::metadata_list(&changed);
        }
    }
}

#[test]
fn words_of_any_value_are_taken_apart_and_put_together() {
    on_numbers(fuzz::wire_words, 200, 300);
}

#[test]
fn calls_of_sys_init_keep_their_promises() {
    on_numbers(fuzz::sys_init, 25, 600);
}

#[test]
fn calls_that_read_keep_their_promises() {
    on_numbers(fuzz::sys_reads, 25, 600);
}

#[test]
fn calls_of_sys_config_keep_their_promises() {
    on_numbers(fuzz::sys_config, 25, 600);
}

#[test]
fn calls_of_key_config_and_tdmr_init_keep_their_promises() {
    on_numbers(fuzz::sys_key_and_tdmr, 25, 600);
}

#[test]
fn calls_of_shutdown_and_update_keep_their_promises() {
    on_numbers(fuzz::sys_handoff, 25, 600);
}

#[test]
fn calls_of_sys_disable_keep_their_promises() {
    on_numbers(fuzz::sys_disable, 25, 600);
}

#[test]
fn calls_to_the_loader_keep_their_promises() {
    on_numbers(fuzz::seamldr_leaves, 400, 600);
}

#[test]
fn calls_of_any_leaf_keep_their_promises() {
    on_numbers(fuzz::any_leaf, 40, 600);
}

#[test]
fn memory_does_what_the_table_of_keyids_says() {
    on_numbers(fuzz::memory_by_keyid, 200, 1500);
}

#[test]
fn the_memory_of_a_guest_answers_as_the_models_own() {
    on_numbers(fuzz::guest_memory, 60, 2500);
}

#[test]
fn any_guest_is_refused_in_a_line_or_a_platform() {
    on_numbers(fuzz::guest_platform, 400, 120);
}

#[test]
fn images_to_boot_from_are_refused_in_a_line_or_start() {
    on_numbers(fuzz::boot_image, 100, 120);
}

#[test]
fn images_are_refused_with_a_reason_or_written_as_they_were_read() {
    on_numbers(fuzz::image_file, 200, 120);
}

#[test]
fn every_field_of_a_sigstruct_and_every_relocation_is_judged() {
    on_numbers(fuzz::sigstruct_and_relocations, 200, 2400);
}

#[test]
fn calls_of_install_replace_the_module_or_leave_what_was_there() {
    on_numbers(fuzz::seamldr_install, 60, 400);
}

#[test]
fn handed_over_data_are_taken_as_a_whole_or_not_at_all() {
    on_numbers(fuzz::handoff_data, 200, 40);
}

#[test]
fn mapping_files_are_refused_in_a_line_or_fit_to_choose_from() {
    on_numbers(fuzz::mapping_file, 200, 400);
    on_variants(fuzz::mapping_file, MAPPING_FILE, 600);
}

#[test]
fn what_is_committed_is_what_was_written() {
    on_numbers(fuzz::upload_files, 200, 600);
}

#[test]
fn data_objects_are_refused_in_a_line_or_written_as_they_were_read() {
    on_numbers(fuzz::doe_object, 500, 60);
    // An object of four dwords, cut and with each byte changed.
    let object = [1, 0, 1, 0, 4, 0, 0, 0, 0x12, 0x84, 0, 0, 1, 2, 3, 4];
    for end in 0..=object.len() {
        fuzz::doe_object(&object[..end]);
    }
    for place in 0..object.len() {
        let mut changed = object;
        changed[place] ^= 1;
        fuzz::doe_object(&changed);
    }
}

#[test]
fn a_mailbox_and_its_driver_outlive_a_stranger() {
    on_numbers(fuzz::doe_mailbox, 300, 2000);
}

#[test]
fn configuration_spaces_are_walked_to_an_end() {
    on_numbers(fuzz::config_space, 300, 4200);
    // A chain of one DOE and one IDE capability among numbers.
    for run in 0..200 {
        let mut bytes = Numbers(run).bytes(4096);
        bytes[0x100..0x104].copy_from_slice(&[0x2e, 0, 2, 0x20]);
        bytes[0x200..0x204].copy_from_slice(&[0x30, 0, 1, 0]);
        fuzz::config_space(&bytes);
    }
}

#[test]
fn tables_of_key_units_are_refused_in_a_line_or_sound() {
    on_numbers(fuzz::keyp_table, 300, 200);
    let spec = presets::find("default").unwrap().spec().unwrap();
    let machine = Machine::power_on(spec, 0).unwrap();
    on_bent(fuzz::keyp_table, machine.acpi_table("KEYP").unwrap());
}

#[test]
fn secured_messages_are_taken_in_their_order_or_not_at_all() {
    on_numbers(fuzz::secured_message, 400, 900);
}

/// `bytes` as they are, cut at every place, and with every byte changed.
fn on_bent(body: Body, bytes: &[u8]) {
    body(bytes);
    for place in 0..bytes.len() {
        body(&bytes[..place]);
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[place] ^ 1, bytes[place].wrapping_add(4)] {
            let mut bent = bytes.to_vec();
            bent[place] = value;
            body(&bent);
        }
    }
}

/// `start`, zeros up to `size`, and some bytes among them.
fn sparse(start: &[u8], size: usize, some: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(size, 0);
    for (place, value) in some {
        bytes[*place] = *value;
    }
    bytes
}

/// SHA-384 and P-384, measurements of SHA-256.
fn agreed(version: Version) -> Stage {
    Stage::Agreed(Layout::new(
        version,
        Suite {
            hash: HashAlgo::Sha384,
            asym: AsymAlgo::EcdsaP384,
            dhe: Some(DheGroup::Secp384r1),
            aead: Some(AeadAlgo::Aes256Gcm),
            measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha256)),
        },
    ))
}

#[test]
fn requests_of_spdm_are_refused_in_a_line_or_written_as_they_were_read() {
    on_numbers(fuzz::spdm_request, 2000, 300);
    // Version 1.3, SHA-384 and P-384; a message of each layout.
    let choice = 0x8f;
    let tables = [2, 0x20, 0x18, 0, 3, 0x20, 2, 0, 5, 0x20, 1, 0];
    let algorithms =
        [&sparse(&[0x13, 0xe3, 3, 0, 44], 32, &[(7, 2), (8, 0x90), (12, 3)])[..], &tables].concat();
    for message in [
        vec![0x10, 0x84, 0, 0],
        sparse(&[0x13, 0xe1], 20, &[(8, 0xc6), (9, 0x76), (10, 2), (13, 0x10), (17, 0x10)]),
        algorithms,
        sparse(&[0x13, 0x82, 1, 0], 8, &[(7, 4)]),
        sparse(&[0x13, 0x83, 0, 0xff], 44, &[]),
        sparse(&[0x13, 0xe0, 7, 0xff], 45, &[]),
        sparse(&[0x13, 0xe0, 0, 1], 12, &[]),
        sparse(&[0x13, 0xe4, 1, 0], 40 + 96 + 2 + 16, &[(136, 16)]),
        sparse(&[0x13, 0xe5], 52, &[]),
        vec![0x13, 0xe9, 2, 7],
        vec![0x13, 0xec, 1, 0],
        vec![0x13, 0xfe, 0, 0, 3, 0, 2, 1, 0, 3, 0, 1, 0x10, 0x81],
        vec![0x13, 0xff, 0xe4, 9],
        sparse(&[0x13, 0x85, 0, 1], 20, &[(8, 4), (12, 99)]),
        vec![0x13, 0x86, 0, 1, 2, 0],
    ] {
        let read = msg::exact(&message, |reader| Request::read(reader, &agreed(Version::V1_3)).map(drop));
        assert_eq!(read, Ok(()), "{message:02x?}");
        on_bent(fuzz::spdm_request, &[&[choice], &message[..]].concat());
    }
}

#[test]
fn responses_of_spdm_are_refused_in_a_line_or_written_as_they_were_read() {
    on_numbers(fuzz::spdm_response, 2000, 600);
    let tables = [2, 0x20, 0x10, 0, 3, 0x20, 2, 0, 5, 0x20, 1, 0];
    let algorithms =
        [&sparse(&[0x12, 0x63, 3, 0, 48], 36, &[(6, 1), (7, 2), (8, 2), (12, 0x80), (16, 2)])[..], &tables]
            .concat();
    // Version 1.2, SHA-384 and P-384, a summary and a signature.
    for message in [
        vec![0x10, 0x04, 0, 0, 0, 2, 0, 0x12, 0, 0x13],
        sparse(&[0x12, 0x61], 20, &[(8, 0xd6), (9, 0x62), (13, 0x10), (17, 0x10)]),
        algorithms,
        sparse(&[0x12, 0x01, 0, 5], 4 + 96, &[]),
        sparse(&[0x12, 0x02, 1, 0, 9, 0, 7, 1], 17, &[]),
        sparse(&[0x12, 0x03, 0, 1], 4 + 48 + 32 + 48 + 2 + 96, &[]),
        sparse(
            &[0x12, 0x60, 0, 0x10, 1, 8],
            8 + 8 + 32 + 2 + 96,
            &[(8, 1), (9, 1), (10, 4), (12, 0x81), (13, 1)],
        ),
        sparse(&[0x12, 0x64, 9, 0], 40 + 96 + 48 + 2 + 96 + 48, &[]),
        sparse(&[0x12, 0x65], 4, &[]),
        vec![0x12, 0x69, 1, 7],
        vec![0x12, 0x7e, 0, 0, 3, 0, 2, 1, 0, 3, 0, 1, 0x10, 0x81],
        vec![0x12, 0x7f, 0x42, 0, 20, 0x83, 1, 2],
        vec![0x12, 0x7f, 0xff, 3, 2, 1, 0, 9],
        vec![0x12, 0x05, 1, 1, 0, 0, 0x12, 0x7f, 1, 0],
        sparse(&[0x12, 0x06, 1, 1, 1], 16, &[(8, 4)]),
    ] {
        let asked = Asked { summary: true, signature: true };
        let stage = agreed(Version::V1_2);
        let read = msg::exact(&message, |reader| Response::read(reader, &stage, asked).map(drop));
        assert_eq!(read, Ok(()), "{message:02x?}");
        on_bent(fuzz::spdm_response, &[&[0x8e, 3], &message[..]].concat());
    }
}

#[test]
fn a_requester_believes_nothing_that_was_changed() {
    on_numbers(fuzz::spdm_requester, 600, 900);
}

#[test]
fn a_saved_session_goes_on_or_is_refused_in_a_line() {
    on_numbers(fuzz::saved_session, 1500, 60);
}

#[test]
fn opaque_data_and_measurements_are_refused_in_a_line_or_written_as_they_were_read() {
    on_numbers(fuzz::spdm_opaque, 2000, 200);
    let supported = [1, 0, 0, 0, 0, 0, 7, 0, 1, 1, 2, 0, 0x11, 0, 0x12, 0];
    let selected = [2, 0, 0, 0, 3, 2, 1, 0, 1, 0, 9, 0, 0, 0, 4, 0, 1, 0, 0, 0x12];
    let record = [1, 1, 4, 0, 0x81, 1, 0, 9, 254, 1, 19, 0, 0x85, 16, 0];
    on_bent(fuzz::spdm_opaque, &supported);
    on_bent(fuzz::spdm_opaque, &selected);
    on_bent(fuzz::spdm_opaque, &sparse(&record, 31, &[]));
}

#[test]
fn a_responder_survives_any_stream_of_objects() {
    on_numbers(fuzz::spdm_responder, 300, 1500);
}

/// Messages with a length byte in front of each, as the bodies of protocols inside a session take them.
fn behind_lengths(messages: &[Vec<u8>]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| [&[u8::try_from(message.len()).unwrap()], &message[..]].concat())
        .collect()
}

#[test]
fn keys_of_streams_are_taken_or_refused() {
    on_numbers(fuzz::ide_km, 500, 400);
    let keys = [0x00, 0x10, 0x20, 0x02, 0x12, 0x22];
    let ifv = [0, 0, 0, 0, 1, 0, 0, 0];
    let programmed = keys.map(|key| [&[2, 0, 0, 0, 0, key, 0][..], &[0x5a; 32], &ifv].concat());
    let used = keys.map(|key| vec![4, 0, 0, 0, 0, key, 0]);
    let stopped = vec![5, 0, 0, 0, 0, 0x12, 0];
    let messages = [&programmed[..], &used, &[vec![0, 0, 0], stopped]].concat();
    on_bent(fuzz::ide_km, &behind_lengths(&messages));
}

#[test]
fn interfaces_follow_their_states() {
    on_numbers(fuzz::tdisp, 500, 400);
    let message = |code: u8, body: &[u8]| [&[0x10, code], &[0; 14][..], body].concat();
    let nonce = [0x5a; 32];
    let messages = [
        message(0x81, &[]),
        message(0x82, &[0; 4]),
        message(0x83, &[8, 0, 0, 0, 0, 0, 0, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        message(0x84, &[0, 0, 0, 4]),
        message(0x86, &nonce),
        message(0x88, &[1]),
        message(0x8a, &[0; 16]),
        message(0x8b, &[0, 2, 0x86, 0x80]),
        vec![0xf0],
        message(0x85, &[]),
        message(0x87, &[]),
    ];
    on_bent(fuzz::tdisp, &behind_lengths(&messages));
}

#[test]
fn only_tlps_that_come_in_their_turn_are_believed() {
    on_numbers(fuzz::ide_tlp, 500, 300);
    // A write of a dword under a MAC that is none.
    let head = [0x80, 0, 0, 0, 0x60, 0, 0, 1, 0x3b, 0, 0, 0x0f, 0, 0, 0, 0, 0, 0, 0x10, 0];
    on_bent(fuzz::ide_tlp, &[&head[..], &[0xaa; 20]].concat());
}

#[test]
fn a_device_file_is_a_device_or_is_refused_in_a_line() {
    for device in tdx_machine::endpoint::devices::ALL {
        on_variants(fuzz::device_file, device.toml, 150);
    }
}

#[test]
fn a_socket_serves_the_next_client_whatever_came_before() {
    on_numbers(fuzz::dsm_socket, 200, 200);
    let frame = |command: u32, payload: &[u8]| {
        let size = u32::try_from(payload.len()).unwrap();
        [[command, 2, size].map(u32::to_be_bytes).as_flattened(), payload].concat()
    };
    let object = |kind: u8, payload: &[u8]| {
        let length = u8::try_from(2 + payload.len() / 4).unwrap();
        frame(1, &[&[1, 0, kind, 0, length, 0, 0, 0], payload].concat())
    };
    let frames = [
        vec![7],
        frame(0xdead, b"Client Hello!\0"),
        object(0, &[0; 4]),
        object(1, &[0x10, 0x84, 0, 0]),
        object(1, &[0x12, 0xe1, 0, 0, 0, 14, 0, 0, 0xc6, 0x62, 2, 0, 0, 0x10, 0, 0, 0, 0, 1, 0]),
        object(2, &[1, 0, 1, 0, 16, 0, 0, 0]),
        frame(0x8001, &[0; 4]),
        frame(0xfffd, &[]),
    ];
    on_bent(fuzz::dsm_socket, &frames.concat());
}

#[test]
fn registers_of_a_device_take_anything() {
    on_numbers(fuzz::endpoint_config, 150, 800);
}

#[test]
fn a_certificate_chain_is_believed_only_as_its_authority_has_made_it() {
    on_numbers(fuzz::cert_chain, 600, 40);
    // Nothing is changed, with and without the root.
    fuzz::cert_chain(&[0, 0, 0, 0]);
    fuzz::cert_chain(&[0, 0, 1, 0]);
    // The header and one empty object.
    on_bent(fuzz::cert_chain, &sparse(&[38, 0], 38, &[(36, 0x30)]));
}
