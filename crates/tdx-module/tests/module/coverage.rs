//! Every row has a test or a reason why it has none.

use std::collections::BTreeSet;
use std::path::Path;

use tdx_module::checks;

/// Row names between quotes in the sources of these tests. A message may go on after the name.
fn named() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/module");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("the sources of the tests") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("readable");
            let literals = text.split('"').skip(1).step_by(2);
            names.extend(literals.map(|literal| literal.split(": ").next().unwrap_or_default().to_owned()));
        }
    }
    names
}

#[test]
fn every_row_is_tested_or_explained() {
    let names = named();
    let tested: BTreeSet<&str> =
        names.iter().filter_map(|name| checks::find(name)).map(|row| row.id).collect();
    let explained: BTreeSet<&str> = checks::unreachable().iter().map(|row| row.id).collect();
    let missing: Vec<&str> = checks::rows()
        .iter()
        .map(|row| row.id)
        .filter(|id| !tested.contains(id) && !explained.contains(id))
        .collect();
    assert!(missing.is_empty(), "no test and no reason: {missing:?}");
    let both: Vec<&&str> = tested.intersection(&explained).collect();
    assert!(both.is_empty(), "tested, and said to be out of reach: {both:?}");
}

#[test]
fn every_name_in_a_test_is_that_of_a_row() {
    let names = named();
    let looks_like_a_row = |name: &str| {
        let name = name.strip_prefix("1.0:").unwrap_or(name);
        ["TDH.", "DISPATCH-", "CONNECT-", "SEAMLDR-", "SEAMLDR."].iter().any(|start| name.starts_with(start))
            && name.contains('-')
    };
    for name in names.iter().filter(|name| looks_like_a_row(name)) {
        for row in name.split(" before ") {
            assert!(checks::find(row).is_some(), "{row} is no row");
        }
    }
}
