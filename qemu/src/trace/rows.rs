//! Which check rows may have refused a call.

use std::ops::RangeInclusive;

use tdx_abi::leaf::LeafWord;
use tdx_abi::status::{DetailKind, OperandId, SeamldrStatus, Status, StatusCode};
use tdx_machine::fault::CallLeaf;
use tdx_module::checks::{self, CheckRow};
use tdx_module::profile::Generation;

/// How a call ended that did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CF = 1, registers unchanged.
    VmFailInvalid,
    /// This in RAX.
    Status(u64),
}

/// Rows that only modules of TDX 1.0 have stand under a leaf of this prefix.
const ONLY_1_0: &str = "1.0:";
/// What a row of all releases is in TDX 1.0.
const AS_IN_1_0: &str = "@1.0";
/// Rows of the dispatcher, which come before those of every leaf.
const MODULE: &str = "DISPATCH";
const LOADER: &str = "SEAMLDR";
const VM_FAIL_INVALID: &str = "VMfailInvalid";

/// Names of the rows of a call's leaf that answer like this; none if the table does not know the
/// refusal. `generation` is that of the module, if there is one.
pub fn rows_of(rax: u64, refusal: Refusal, generation: Option<Generation>) -> Vec<&'static str> {
    let loader = LeafWord::from_raw(rax).is_seamldr();
    let leaf = CallLeaf::of(rax).to_string();
    let of_1_0 = !loader && generation == Some(Generation::V1_0);
    let own_table = of_1_0 && checks::rows().iter().any(|row| family(row) == (true, leaf.as_str()));
    checks::rows()
        .iter()
        .filter(|row| {
            let (only_1_0, name) = family(row);
            match name {
                MODULE => !loader,
                LOADER => loader,
                _ => name == leaf && only_1_0 == own_table,
            }
        })
        .filter(|row| of_1_0 || !row.id.ends_with(AS_IN_1_0))
        .filter(|row| answers(row, refusal, loader))
        .map(|row| row.id)
        .collect()
}

/// If the row is of TDX 1.0 only, and the leaf that it belongs to.
fn family(row: &CheckRow) -> (bool, &'static str) {
    let (only_1_0, id) = match row.id.strip_prefix(ONLY_1_0) {
        Some(id) => (true, id),
        None => (false, row.id),
    };
    let id = id.split('@').next().unwrap_or(id);
    (only_1_0, id.rsplit_once('-').map_or(id, |(leaf, _)| leaf))
}

fn answers(row: &CheckRow, refusal: Refusal, loader: bool) -> bool {
    if row.result.starts_with("effect:") {
        return false;
    }
    if let Some(numbers) = borrowed(row) {
        return borrowed_rows(numbers).any(|row| answers(row, refusal, loader));
    }
    match refusal {
        Refusal::VmFailInvalid => row.result == VM_FAIL_INVALID,
        Refusal::Status(raw) if loader => words(row.result).any(|(word, _)| {
            SeamldrStatus::ALL.iter().any(|status| status.0 == raw && status.name() == Some(word))
        }),
        Refusal::Status(raw) => words(row.result).any(|(word, rest)| {
            StatusCode::from_name(word).is_some_and(|code| Status::from_raw(raw).is(code))
                && detail_fits(rest, Status::from_raw(raw))
        }),
    }
}

/// Numbers of the rows of 1.5 whose answers a row has: its condition names them.
fn borrowed(row: &CheckRow) -> Option<RangeInclusive<u32>> {
    if row.result != "as 1.5" {
        return None;
    }
    let (_, behind) = row.condition.split_once("rows ")?;
    let (range, _) = behind.split_once(" of 1.5")?;
    let (first, last) = range.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Only TDH.SYS.INIT borrows.
fn borrowed_rows(numbers: RangeInclusive<u32>) -> impl Iterator<Item = &'static CheckRow> {
    checks::rows().iter().filter(move |row| {
        let number = row.id.strip_prefix("TDH.SYS.INIT-").and_then(|number| number.parse().ok());
        number.is_some_and(|number| numbers.contains(&number))
    })
}

/// Names of statuses in a row's result, each with what follows it.
fn words(result: &str) -> impl Iterator<Item = (&str, &str)> {
    result.split([';', '(']).map(|part| {
        let part = part.rsplit_once(": ").map_or(part, |(_, name)| name).trim_start();
        let end = part
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
            .unwrap_or(part.len());
        part.split_at(end)
    })
}

/// True if bits 31:0 of the status are among what the row says behind the name.
fn detail_fits(rest: &str, status: Status) -> bool {
    let detail = status.detail();
    if let Some(reason) = rest.strip_prefix(", count<<16 | ") {
        return reason.trim().parse() == Ok(detail & 0xFFFF);
    }
    let Some(rest) = rest.strip_prefix('|') else { return true };
    rest.split(" or ").any(|wanted| {
        let wanted = wanted.split([',', ' ']).next().unwrap_or(wanted);
        if let Some(digits) = wanted.strip_prefix("0x") {
            return u32::from_str_radix(digits, 16) == Ok(detail);
        }
        if let Ok(number) = wanted.parse::<u32>() {
            return detail == number;
        }
        match status.info().map(|info| info.detail) {
            Some(DetailKind::Operand) => OperandId::ALL
                .iter()
                .any(|operand| operand.name() == Some(wanted) && u32::from(operand.0) == detail),
            // A word that stands for whichever MSR, package or SMRR it is.
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};

    fn module(leaf: SeamcallLeaf, raw: u64, generation: Generation) -> Vec<&'static str> {
        rows_of(LeafWord::module(leaf, 0).raw(), Refusal::Status(raw), Some(generation))
    }

    fn loader(leaf: SeamldrLeaf, status: SeamldrStatus) -> Vec<&'static str> {
        rows_of(LeafWord::seamldr(leaf).raw(), Refusal::Status(status.0), None)
    }

    #[test]
    fn a_status_names_the_rows_of_its_leaf_and_of_the_dispatcher() {
        let generation = Generation::V2_0;
        let rcx = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX).raw();
        assert_eq!(module(SeamcallLeaf::SYS_INIT, rcx, generation), ["TDH.SYS.INIT-3"]);
        let rax = StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX).raw();
        assert_eq!(
            module(SeamcallLeaf::SYS_INIT, rax, generation),
            ["DISPATCH-1", "DISPATCH-2", "DISPATCH-3", "DISPATCH-6", "TDH.SYS.INIT-1"]
        );
        let sensitive =
            |reason: u32| StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with_detail(3 << 16 | reason).raw();
        assert_eq!(module(SeamcallLeaf::SYS_SHUTDOWN, sensitive(0), generation), ["TDH.SYS.SHUTDOWN-4"]);
        assert_eq!(module(SeamcallLeaf::SYS_SHUTDOWN, sensitive(1), generation), ["TDH.SYS.SHUTDOWN-5"]);
        let tdmr = StatusCode::TDMR_OUTSIDE_CMRS.with_detail(7).raw();
        assert_eq!(module(SeamcallLeaf::SYS_CONFIG, tdmr, generation), ["TDH.SYS.CONFIG-24"]);
        let both = ["TDH.SYS.CONFIG-24", "TDH.SYS.CONFIG-24@1.0"];
        assert_eq!(module(SeamcallLeaf::SYS_CONFIG, tdmr, Generation::V1_0), both);
        assert!(module(SeamcallLeaf::SYS_INFO, tdmr, generation).is_empty());
    }

    #[test]
    fn details_of_msrs_are_compared() {
        let wrong = |msr| StatusCode::INCORRECT_MSR_VALUE.with_detail(msr).raw();
        let rows = |msr| module(SeamcallLeaf::SYS_INIT, wrong(msr), Generation::V1_0);
        assert_eq!(rows(0x122), ["1.0:TDH.SYS.INIT-6", "1.0:TDH.SYS.INIT-9"]);
        assert_eq!(rows(0x982), ["1.0:TDH.SYS.INIT-9", "1.0:TDH.SYS.INIT-10"]);
    }

    #[test]
    fn a_module_of_tdx_1_0_has_rows_of_its_own_and_borrows_some() {
        let no_leaf = StatusCode::CPUID_LEAF_NOT_SUPPORTED.with_detail(0x1F).raw();
        assert_eq!(module(SeamcallLeaf::SYS_INIT, no_leaf, Generation::V1_0), ["1.0:TDH.SYS.INIT-8"]);
        assert_eq!(module(SeamcallLeaf::SYS_INIT, no_leaf, Generation::V2_0), ["TDH.SYS.INIT-10"]);
        let busy = StatusCode::SYS_BUSY.plain().raw();
        let own = module(SeamcallLeaf::SYS_INIT, busy, Generation::V1_0);
        assert!(!own.is_empty() && own.iter().all(|id| id.starts_with("1.0:")), "{own:?}");
        // A leaf whose rows are the same in all releases.
        assert!(!module(SeamcallLeaf::SYS_CONFIG, busy, Generation::V1_0).is_empty());
    }

    #[test]
    fn the_loader_has_rows_of_its_own() {
        let rows = loader(SeamldrLeaf::INSTALL, SeamldrStatus::EUNSUPPORTED);
        assert!(rows.len() > 1 && rows.iter().all(|id| id.starts_with("SEAMLDR.INSTALL-")), "{rows:?}");
        for (leaf, status) in [
            (SeamldrLeaf::INSTALL, SeamldrStatus::EBADSIG),
            (SeamldrLeaf::INSTALL, SeamldrStatus::EBADCALL),
            (SeamldrLeaf::INSTALL, SeamldrStatus::EUNSUPCPU),
            (SeamldrLeaf::INFO, SeamldrStatus::EBADPARAM),
        ] {
            assert!(!loader(leaf, status).is_empty(), "{status:?}");
        }
        assert!(loader(SeamldrLeaf::INFO, SeamldrStatus::EBADSIG).is_empty());
        let invalid = rows_of(LeafWord::seamldr(SeamldrLeaf::INFO).raw(), Refusal::VmFailInvalid, None);
        assert_eq!(invalid, ["SEAMLDR-1", "SEAMLDR-4"]);
    }

    #[test]
    fn a_status_that_no_row_names_has_no_rows() {
        assert!(module(SeamcallLeaf::SYS_INIT, 0x8000_FFFF_0000_0000, Generation::V2_0).is_empty());
        assert!(
            rows_of(LeafWord::module(SeamcallLeaf::SYS_INIT, 0).raw(), Refusal::VmFailInvalid, None)
                .is_empty()
        );
    }

    #[test]
    fn every_row_that_answers_names_a_status_that_is_known() {
        for row in checks::rows() {
            if row.result.starts_with("effect:")
                || row.result == VM_FAIL_INVALID
                || row.result == "as 1.5" && borrowed(row).is_some()
            {
                continue;
            }
            let known = |word: &str| {
                let loader = family(row).1.starts_with(LOADER);
                if loader {
                    SeamldrStatus::ALL.iter().any(|status| status.name() == Some(word))
                } else {
                    StatusCode::from_name(word).is_some()
                }
            };
            assert!(words(row.result).any(|(word, _)| known(word)), "{} {}", row.id, row.result);
        }
    }
}
