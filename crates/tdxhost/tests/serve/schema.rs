//! The part of JSON Schema that the API's contract uses; any other keyword fails the test.

use serde_json::Value;

/// Checks `value` against `schema`; references are looked up in `document`.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    at(document, schema, value, "$")
}

fn at(document: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let fail = |what: String| Err(format!("{path}: {what}"));
    for (keyword, rule) in schema.as_object().ok_or(format!("{path}: a schema is an object"))? {
        match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap_or_default().trim_start_matches('#');
                let target = document.pointer(pointer).ok_or(format!("{path}: nothing at {pointer}"))?;
                at(document, target, value, path)?;
            }
            "type" => {
                let named = match rule {
                    Value::Array(names) => names.iter().any(|name| is_of(value, name)),
                    name => is_of(value, name),
                };
                if !named {
                    return fail(format!("{value} is not of type {rule}"));
                }
            }
            "const" if rule != value => return fail(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().is_some_and(|values| values.contains(value)) => {
                return fail(format!("{value} is not one of {rule}"));
            }
            "minimum" if value.as_f64() < rule.as_f64() && value.is_number() => {
                return fail(format!("{value} is less than {rule}"));
            }
            "maximum" if value.as_f64() > rule.as_f64() && value.is_number() => {
                return fail(format!("{value} is more than {rule}"));
            }
            "pattern" => {
                let pattern = rule.as_str().unwrap_or_default();
                if value.as_str().is_some_and(|text| !matches(pattern, text)) {
                    return fail(format!("{value} does not match {pattern}"));
                }
            }
            "anyOf" => {
                let any = rule
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| at(document, one, value, path).is_ok()));
                if !any {
                    return fail(format!("{value} fits none of {rule}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    at(document, rule, item, &format!("{path}[{index}]"))?;
                }
            }
            // Met by the guards above, or looked at below.
            "const"
            | "enum"
            | "minimum"
            | "maximum"
            | "description"
            | "required"
            | "properties"
            | "additionalProperties" => {}
            other => return fail(format!("keyword {other} is not checked here")),
        }
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap_or_default()) {
            return fail(format!("{name} is missing"));
        }
    }
    for (name, member) in members {
        let below = format!("{path}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(rule), _) | (None, Some(rule @ Value::Object(_))) => {
                at(document, rule, member, &below)?;
            }
            (None, Some(Value::Bool(false))) => return fail(format!("{name} is not documented")),
            (None, _) => {}
        }
    }
    Ok(())
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

/// The four patterns of the contract, in Rust.
fn matches(pattern: &str, text: &str) -> bool {
    let rest = |prefix: &str, allowed: fn(char) -> bool| {
        text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(allowed))
    };
    match pattern {
        "^0x[0-9a-f]+$" => rest("0x", |c| matches!(c, '0'..='9' | 'a'..='f')),
        "^[a-z0-9-]+$" => rest("", |c| matches!(c, 'a'..='z' | '0'..='9' | '-')),
        "^E[A-Z0-9]+$" => rest("E", |c| matches!(c, 'A'..='Z' | '0'..='9')),
        "^0[0-7]{3}$" => text.len() == 4 && rest("0", |c| matches!(c, '0'..='7')),
        _ => false,
    }
}
