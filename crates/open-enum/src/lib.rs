//! Wire codes as open enums: every number is a value, known numbers have names.
//!
//! One macro, shared by the crates of layouts. `no_std`, no `alloc`.
#![no_std]

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
#[macro_export]
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
