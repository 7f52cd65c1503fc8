//! The kernel module that makes SEAMCALLs of its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tdx_linux_guest::{plan::Hex, symbols::address_of};

use super::{Finding, module};

/// The module's name, whatever its file is called.
const NAME: &str = "tdx_bench";
/// Where it shows what it found, one `name value` per line.
const RESULT: &str = "/sys/kernel/debug/tdx_bench/result";

/// The kernel's variable that leads to its TDMRs and with them to the PAMT.
const TDMR_LIST: &str = "tdx_tdmr_list";

/// What is measured.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) calls: u64,
    pub(super) all_cpus: bool,
    pub(super) field: Option<Hex>,
    pub(super) leaf: Option<Hex>,
}

impl Request {
    fn params(&self) -> String {
        let mut params = format!("calls={} all_cpus={}", self.calls, u8::from(self.all_cpus));
        for (name, value) in [("field", self.field), ("leaf", self.leaf)] {
            if let Some(value) = value {
                params = format!("{params} {name}={value}");
            }
        }
        params
    }
}

/// Reads `name value` lines; the error is the first line that is none.
fn parse(text: &str) -> Result<BTreeMap<String, u64>, String> {
    text.lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').ok_or(line)?;
            let value = match value.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => value.parse(),
            };
            Ok((name.to_owned(), value.map_err(|_| line)?))
        })
        .collect()
}

fn load_and_read(path: &str, params: &str) -> Result<BTreeMap<String, u64>> {
    let loaded = module::insert(path, params)?;
    loaded.with_context(|| format!("{path} does not load with {params:?}"))?;
    let text = std::fs::read_to_string(RESULT).with_context(|| format!("{RESULT} cannot be read"));
    let removed = module::remove(NAME);
    let numbers = parse(&text?).map_err(|line| anyhow::anyhow!("{RESULT} has a line {line:?}"))?;
    removed?;
    Ok(numbers)
}

fn number(numbers: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    numbers.get(name).copied().with_context(|| format!("{RESULT} has no {name}"))
}

/// The step `bench`.
pub(super) fn run(path: &str, request: &Request, status: Hex) -> Result<Finding> {
    let mut numbers = load_and_read(path, &request.params())?;
    let (calls, cpus) = (number(&numbers, "calls")?, number(&numbers, "cpus")?);
    let nanoseconds = number(&numbers, "nanoseconds")?;
    let last = Hex(number(&numbers, "status")?);
    ensure!(last == status, "the last call's status is {last}, not {status}");
    ensure!(nanoseconds > 0, "{calls} calls took no time");
    let per_second = u128::from(calls) * 1_000_000_000 / u128::from(nanoseconds);
    let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    numbers.insert("calls_per_second".to_owned(), per_second);
    Ok(Finding { detail: format!("{calls} SEAMCALLs on {cpus} CPUs, {per_second} per second"), numbers })
}

/// The step `ciphertext`.
pub(super) fn ciphertext(path: &str) -> Result<Finding> {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms cannot be read")?;
    let list =
        address_of(&kallsyms, TDMR_LIST).with_context(|| format!("/proc/kallsyms has no {TDMR_LIST}"))?;
    judge_pages(load_and_read(path, &format!("tdmr_list={list:#x}"))?)
}

fn judge_pages(numbers: BTreeMap<String, u64>) -> Result<Finding> {
    let (pages, lines) = (number(&numbers, "pages")?, number(&numbers, "lines")?);
    let (zero, same) = (number(&numbers, "zero_lines")?, number(&numbers, "repeated_lines")?);
    ensure!(pages > 0, "no page of the machine is one that the module reserved");
    ensure!(zero == 0, "{zero} of {lines} lines in {pages} pages of the PAMT are zeros to the host");
    ensure!(same == 0, "{same} of {lines} lines in {pages} pages of the PAMT repeat the line before");
    let detail = format!("{lines} lines in {pages} pages of the PAMT are ciphertext to the host");
    Ok(Finding { detail, numbers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_gets_what_was_asked_for() {
        let request =
            Request { calls: 10, all_cpus: true, field: Some(Hex(0x8900_0001_0000_0000)), leaf: None };
        assert_eq!(request.params(), "calls=10 all_cpus=1 field=0x8900000100000000");
        let request = Request { calls: 1, all_cpus: false, field: None, leaf: Some(Hex(0x21)) };
        assert_eq!(request.params(), "calls=1 all_cpus=0 leaf=0x21");
    }

    #[test]
    fn results_are_names_and_numbers() {
        let numbers = parse("calls 100\nstatus 0xc000020000000000\n").unwrap();
        assert_eq!(numbers["calls"], 100);
        assert_eq!(numbers["status"], 0xc000_0200_0000_0000);
        assert!(parse("").unwrap().is_empty());
        for bad in ["calls", "calls x", "calls 0x", "calls -1", "calls 1 2"] {
            assert_eq!(parse(bad), Err(bad.to_owned()), "{bad}");
        }
    }

    #[test]
    fn ciphertext_has_pages_and_neither_zeros_nor_repetition() {
        let numbers = |pages: u64, zero: u64, same: u64| {
            [("pages", pages), ("lines", pages * 64), ("zero_lines", zero), ("repeated_lines", same)]
                .map(|(name, number)| (name.to_owned(), number))
                .into()
        };
        assert!(judge_pages(numbers(2, 0, 0)).is_ok());
        for (numbers, why) in
            [(numbers(0, 0, 0), "no page"), (numbers(2, 1, 0), "zeros"), (numbers(2, 0, 1), "repeat")]
        {
            let error = judge_pages(numbers).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(judge_pages(BTreeMap::new()).unwrap_err().to_string().contains("no pages"));
    }
}
