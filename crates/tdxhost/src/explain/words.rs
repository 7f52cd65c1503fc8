//! What the words of a command line ask for.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf, TdcallLeaf, VmcallLeaf};
use tdx_abi::status::StatusCode;

use super::explanation::Explanation;
use super::host_error::{self, NoSuchError};
use super::registers::CallRegisters;
use super::{ExplainArgs, field, guest, status};
use crate::text::{NumberError, number};

/// Sends a SEAMCALL to the P-SEAMLDR, and marks its errors.
const SEAMLDR: u64 = 1 << 63;

/// Why the words cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A number is malformed.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// Neither a number nor a known name.
    #[error("`{word}` is neither a number nor the name of a {of}{}", hint(word))]
    NoName {
        /// The word.
        word: String,
        /// What was looked for.
        of: &'static str,
    },
    /// A number below 0.
    #[error(
        "`{0}` is an error number of the kernel, no status: give the line that it stands in to `tdxhost \
         explain --dmesg -`"
    )]
    Negative(String),
    /// The error name is not known.
    #[error(transparent)]
    NoError(#[from] NoSuchError),
    /// Nothing after `field`, or too much after `field` or `error`.
    #[error("`{0}` takes one word after it")]
    OneWord(&'static str),
    /// More words than the form takes.
    #[error("{given} words are too many: {form}")]
    TooMany {
        /// How many there are.
        given: usize,
        /// What is taken.
        form: &'static str,
    },
    /// No words.
    #[error("nothing to explain: give RAX, or LEAF and RAX")]
    Nothing,
}

/// What to try with a word that is nothing.
fn hint(word: &str) -> String {
    if word.len() <= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) && !word.is_empty() {
        return format!("; hexadecimal needs 0x in front: 0x{word}");
    }
    "; a line of a kernel log goes to `tdxhost explain --dmesg -`".to_owned()
}

/// The explanation that the words ask for.
pub fn explain_words(args: &ExplainArgs) -> Result<Explanation, WordsError> {
    // Pasted words come in one piece, or with what stood behind them.
    let words: Vec<&str> = args
        .words
        .iter()
        .flat_map(|word| word.split_whitespace())
        .map(|word| word.trim_end_matches([':', ',', ';']))
        .filter(|word| !word.is_empty())
        .collect();
    if let Some(word) = words.iter().find(|word| is_negative(word)) {
        return Err(WordsError::Negative((*word).to_owned()));
    }
    match words.as_slice() {
        [] => Err(WordsError::Nothing),
        ["field", id] => field::explain(id).map_err(|error| match error {
            NumberError::Malformed(word) => WordsError::NoName { word, of: "metadata field" },
            error @ NumberError::TooLarge(_) => error.into(),
        }),
        ["error"] => Ok(host_error::explain_all()),
        ["error", name] => Ok(host_error::explain(name)?),
        ["field", ..] => Err(WordsError::OneWord("field")),
        ["error", ..] => Err(WordsError::OneWord("error")),
        words if args.vmcall => vmcall(words),
        words if args.guest => tdcall(words),
        [word] => seamcall_alone(word, args.seamldr),
        [leaf, rax, registers @ ..] => {
            let leaf = seamcall_leaf(leaf, args.seamldr)?;
            let mut rax = status_word(rax)?;
            // Documents of the P-SEAMLDR give its codes without the error bit as well.
            if leaf.is_seamldr() && rax != 0 && rax >> 32 == 0 {
                rax |= SEAMLDR;
            }
            let registers = call_registers(words.len(), registers)?;
            Ok(status::explain(Some(leaf), rax, &registers))
        }
    }
}

fn is_negative(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|digits| number(digits).is_ok())
}

/// A word alone. A status has its class and code in the upper half, a leaf number never.
fn seamcall_alone(word: &str, to_seamldr: bool) -> Result<Explanation, WordsError> {
    let none = CallRegisters::default();
    match number(word) {
        Ok(value) if is_leaf_number(value) => Ok(status::explain_leaf(seamcall_leaf(word, to_seamldr)?)),
        Ok(value) if to_seamldr => Ok(status::explain_seamldr(value)),
        Ok(value) => Ok(status::explain(None, value, &none)),
        Err(_) => match StatusCode::from_name(word) {
            Some(code) => Ok(status::explain_code(code)),
            None => Ok(status::explain_leaf(seamcall_leaf(word, to_seamldr)?)),
        },
    }
}

const fn is_leaf_number(value: u64) -> bool {
    value != 0 && value >> 32 == 0
}

fn seamcall_leaf(word: &str, to_seamldr: bool) -> Result<LeafWord, WordsError> {
    if let Some(raw) = number_unless_name(word)? {
        return Ok(LeafWord::from_raw(if to_seamldr { raw | SEAMLDR } else { raw }));
    }
    named_seamcall(word, to_seamldr)
        .ok_or_else(|| WordsError::NoName { word: word.to_owned(), of: "SEAMCALL leaf or status" })
}

/// The leaf with a name as documents, Linux (`TDH_SYS_INIT`, `P_SEAMLDR_INFO`) or the tables write it.
pub(super) fn named_seamcall(word: &str, to_seamldr: bool) -> Option<LeafWord> {
    let name = word.replace('_', ".");
    let of_seamldr = name.strip_prefix("P.").or_else(|| name.strip_prefix("P-")).unwrap_or(&name);
    // Few names have an underscore of their own.
    let leaf = || SeamcallLeaf::from_name(word).or_else(|| SeamcallLeaf::from_name(&name));
    let module = || leaf().map(|leaf| LeafWord::module(leaf, 0));
    let seamldr = || SeamldrLeaf::from_name(of_seamldr).map(LeafWord::seamldr);
    if to_seamldr { seamldr() } else { module().or_else(seamldr) }
}

/// A number, or nothing if the word is none.
fn number_unless_name(word: &str) -> Result<Option<u64>, NumberError> {
    match number(word) {
        Ok(value) => Ok(Some(value)),
        Err(NumberError::Malformed(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a call returned, as a number or by the name of a status.
fn status_word(word: &str) -> Result<u64, WordsError> {
    if let Some(raw) = number_unless_name(word)? {
        return Ok(raw);
    }
    StatusCode::from_name(word)
        .map(|code| code.plain().raw())
        .ok_or_else(|| WordsError::NoName { word: word.to_owned(), of: "status" })
}

fn call_registers(given: usize, words: &[&str]) -> Result<CallRegisters, WordsError> {
    if words.len() > 6 {
        return Err(WordsError::TooMany { given, form: "LEAF RAX RCX RDX R8 R9 R10 R11" });
    }
    let values = words.iter().map(|word| number(word)).collect::<Result<Vec<u64>, NumberError>>()?;
    Ok(CallRegisters::in_order(&values))
}

fn tdcall(words: &[&str]) -> Result<Explanation, WordsError> {
    let leaf = |word: &str| -> Result<LeafWord, WordsError> {
        if let Some(raw) = number_unless_name(word)? {
            return Ok(LeafWord::from_raw(raw));
        }
        TdcallLeaf::from_name(word)
            .or_else(|| TdcallLeaf::from_name(&word.replace('_', ".")))
            .map(|leaf| LeafWord::guest(leaf, 0))
            .ok_or_else(|| WordsError::NoName { word: word.to_owned(), of: "TDCALL leaf" })
    };
    let none = CallRegisters::default();
    match words {
        [word] => match number_unless_name(word)? {
            Some(value) if !is_leaf_number(value) => Ok(guest::explain_tdcall(None, value, &none)),
            _ => Ok(guest::explain_tdcall_leaf(leaf(word)?)),
        },
        [word, rax, registers @ ..] => {
            let registers = call_registers(words.len(), registers)?;
            Ok(guest::explain_tdcall(Some(leaf(word)?), status_word(rax)?, &registers))
        }
        [] => Err(WordsError::Nothing),
    }
}

fn vmcall(words: &[&str]) -> Result<Explanation, WordsError> {
    let leaf = |word: &str| -> Result<VmcallLeaf, WordsError> {
        if let Some(raw) = number_unless_name(word)? {
            return Ok(VmcallLeaf(raw));
        }
        VmcallLeaf::from_name(word)
            .ok_or_else(|| WordsError::NoName { word: word.to_owned(), of: "TDG.VP.VMCALL sub-function" })
    };
    match words {
        // Results are 0, 1 and numbers with bit 63; sub-functions are neither.
        [word] => match number_unless_name(word)? {
            Some(value) if value <= 1 || value >> 63 == 1 => Ok(guest::explain_vmcall(None, value)),
            _ => Ok(guest::explain_vmcall_leaf(leaf(word)?)),
        },
        [word, result] => Ok(guest::explain_vmcall(Some(leaf(word)?), number(result)?)),
        [] => Err(WordsError::Nothing),
        _ => Err(WordsError::TooMany { given: words.len(), form: "SUB-FUNCTION R10" }),
    }
}
