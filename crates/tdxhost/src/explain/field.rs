//! Explains metadata field identifiers.

use tdx_abi::metadata::{self, Context, FieldForm, FieldId, FieldInfo};

use super::explanation::{Explanation, Interface};
use crate::text::{NumberError, Word, number, plural};

/// The field named `word`, or with the identifier `word`.
pub fn explain(word: &str) -> Result<Explanation, NumberError> {
    if let Some(info) = metadata::lookup_name(word.trim()) {
        return Ok(explain_id(info.id));
    }
    number(word).map(|raw| explain_id(FieldId::from_raw(raw)))
}

/// One line on a field, for use inside other explanations.
pub(super) fn in_words(id: FieldId) -> String {
    match metadata::lookup(id) {
        Some((info, _)) => format!("{id}: {}", info.meaning),
        None => format!("{id}, in no table here: {}", encoding(id)),
    }
}

/// Explains an identifier.
pub fn explain_id(id: FieldId) -> Explanation {
    if id.is_null() {
        let mut explanation = Explanation::new(
            Interface::Field,
            format!("null field id ({})", Word(id.raw())),
            "Asks for the first readable field of a context; as a result it says that there is no further \
             field, or that the call failed.",
        );
        explanation.value = Some(Word(id.raw()));
        return explanation;
    }
    let mut explanation = match metadata::lookup(id) {
        Some((info, index)) => known(id, info, index),
        None => unknown(id),
    };
    explanation.value = Some(Word(id.raw()));
    explanation.fact("encoding", encoding(id));
    if id.has_reserved_bits() {
        explanation.fact("reserved", "a reserved bit is set: the module answers METADATA_FIELD_ID_INCORRECT");
    }
    if id.write_mask_valid() {
        explanation.fact("header", "bit 51: in a list, the first element is a write mask");
    }
    if id.last_element_in_field() != 0 || id.last_field_in_sequence() != 0 {
        explanation.fact(
            "header",
            format!(
                "a list header for {} elements ({} fields of {}); a call for one element refuses it",
                id.element_count(),
                id.last_field_in_sequence() + 1,
                id.last_element_in_field() + 1
            ),
        );
    }
    explanation
}

fn known(id: FieldId, info: &'static FieldInfo, index: u32) -> Explanation {
    let mut explanation = Explanation::new(Interface::Field, id.to_string(), info.meaning);
    explanation.name = Some(info.name.to_owned());
    explanation.fact("kind", format!("field of {}", context(id.context())));
    let count = info.element_count();
    let bytes = plural(u64::from(info.element_bytes), "byte");
    explanation.fact(
        "size",
        match info.form {
            FieldForm::Plain if count > 1 => format!("element {index} of {count}, {bytes} each"),
            FieldForm::Plain => bytes,
            FieldForm::Cpuid => format!("{bytes} each; the code holds CPUID leaf and subleaf"),
            FieldForm::Vmcs => format!("{bytes}; the code is a VMCS encoding"),
        },
    );
    if id.context() == Context::SYS {
        let readers = match (info.host_read, info.guest_read) {
            (true, true) => "host and guest",
            (true, false) => "the host",
            (false, true) => "a guest",
            (false, false) => "nobody",
        };
        let linux = if info.linux_reads { "; Linux 7.3 reads it at bring-up" } else { "" };
        explanation.fact("readable", format!("by {readers}{linux}"));
    }
    explanation.fact(
        "since",
        format!("TDX {}; a module that lacks it answers METADATA_FIELD_ID_INCORRECT", info.since),
    );
    if info.id != id && info.form == FieldForm::Plain && index == 0 {
        explanation.fact("also", format!("canonical id {}", Word(info.id.raw())));
    }
    if !info.other_ids.is_empty() {
        let ids: Vec<String> = info.other_ids.iter().map(|id| Word(id.raw()).to_string()).collect();
        explanation.fact("also", format!("other ids in public sources: {}", ids.join(", ")));
    }
    explanation.basis(info.basis);
    explanation
}

fn unknown(id: FieldId) -> Explanation {
    let mut explanation = Explanation::new(
        Interface::Field,
        format!("unknown field {}", Word(id.raw())),
        "No table here has this field; a module that does not have it answers METADATA_FIELD_ID_INCORRECT.",
    );
    explanation.known = false;
    // Calls for one element of a TD or VCPU do not look at the context bits.
    for other in [Context::TD, Context::VP] {
        if let Some((info, _)) = metadata::lookup(id.with_context(other)) {
            explanation.fact("or", format!("{}, read from {}: {}", info.name, context(other), info.meaning));
        }
    }
    explanation
}

fn context(context: Context) -> String {
    match context {
        Context::SYS => "the module (SYS)".to_owned(),
        Context::TD => "a TD".to_owned(),
        Context::VP => "a virtual processor".to_owned(),
        other => format!("{other:?}, which is not defined"),
    }
}

fn encoding(id: FieldId) -> String {
    format!(
        "context {} ({:?}), class {}, field code {:#x}, elements of {}{}{}",
        id.context().code(),
        id.context(),
        id.class(),
        id.field_code(),
        plural(u64::from(id.element_bytes()), "byte"),
        if id.inc_size() { ", codes two apart" } else { "" },
        if id.non_arch() { ", may change between modules (bit 63)" } else { "" },
    )
}
