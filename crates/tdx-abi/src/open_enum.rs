//! Wire codes as open enums: every number is a value, known numbers have names.

/// Defines a transparent number type whose known values are associated constants.
///
/// ```text
/// open_enum! {
///     /// What the code means.
///     pub struct Code(u16) {
///         /// First.
///         FIRST = 1 => "CODE_FIRST",
///     }
/// }
/// ```
///
/// gives `Code::FIRST`, `Code::ALL`, `name()`, and `Debug`/`Display` that print the name, or the
/// number in hexadecimal for a value that has none.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $type:ident($repr:ty) {
            $( $(#[$value_meta:meta])* $value:ident = $number:literal => $name:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $type(pub $repr);

        impl $type {
            $( $(#[$value_meta])* pub const $value: Self = Self($number); )*

            /// Every known value, in ascending order.
            pub const ALL: &'static [Self] = &[$( Self::$value, )*];

            /// The name of a known value.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $number => Some($name), )*
                    _ => None,
                }
            }
        }

        impl ::core::fmt::Display for $type {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => ::core::write!(f, "{:#x}", self.0),
                }
            }
        }

        impl ::core::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(crate) use open_enum;

#[cfg(test)]
mod tests {
    extern crate std;

    use crate::leaf::SeamldrLeaf;
    use std::format;

    #[test]
    fn a_known_value_prints_its_name() {
        let leaf = SeamldrLeaf(1);
        assert_eq!(leaf, SeamldrLeaf::INSTALL);
        assert_eq!(format!("{leaf} {leaf:?}"), "SEAMLDR.INSTALL SEAMLDR.INSTALL");
        assert_eq!(format!("{:>13}", SeamldrLeaf::INFO), " SEAMLDR.INFO");
    }

    #[test]
    fn an_unknown_value_is_kept_and_prints_its_number() {
        let leaf = SeamldrLeaf(0xabc);
        assert_eq!(leaf.name(), None);
        assert_eq!(format!("{leaf} {leaf:?}"), "0xabc 0xabc");
    }

    #[test]
    fn all_lists_every_known_value_in_order() {
        assert!(SeamldrLeaf::ALL.is_sorted());
        assert_eq!(SeamldrLeaf::ALL.first(), Some(&SeamldrLeaf::INFO));
        assert_eq!(SeamldrLeaf::ALL.last(), Some(&SeamldrLeaf::CLEANUP));
    }
}
