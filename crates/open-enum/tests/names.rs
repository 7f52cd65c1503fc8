//! Known numbers have names, unknown ones are kept.

use open_enum::open_enum;

open_enum! {
    /// Leaves of a made-up loader.
    pub struct Leaf(u64) {
        /// Tells what it is.
        INFO = 0 => "LOADER.INFO",
        /// Puts it in.
        INSTALL = 1 => "LOADER.INSTALL",
        /// Takes it out.
        CLEANUP = 9 => "LOADER.CLEANUP",
    }
}

#[test]
fn a_known_value_prints_its_name() {
    let leaf = Leaf(1);
    assert_eq!(leaf, Leaf::INSTALL);
    assert_eq!(format!("{leaf} {leaf:?}"), "LOADER.INSTALL LOADER.INSTALL");
    assert_eq!(format!("{:>12}", Leaf::INFO), " LOADER.INFO");
}

#[test]
fn an_unknown_value_is_kept_and_prints_its_number() {
    let leaf = Leaf(0xabc);
    assert_eq!(leaf.name(), None);
    assert_eq!(format!("{leaf} {leaf:?}"), "0xabc 0xabc");
}

#[test]
fn all_lists_every_known_value_in_order() {
    assert!(Leaf::ALL.is_sorted());
    assert_eq!(Leaf::ALL.first(), Some(&Leaf::INFO));
    assert_eq!(Leaf::ALL.last(), Some(&Leaf::CLEANUP));
}
