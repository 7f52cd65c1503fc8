//! Why an image is refused: a name, a sentence and what to do, for every refusal of this crate.

/// What is known of a refusal beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable name in kebab-case, unique in this crate.
    pub name: &'static str,
    /// The sentence with the names of its values in braces.
    pub template: &'static str,
    /// What to try.
    pub advice: &'static str,
}

/// Defines an error enum whose variants are rows: name, sentence, advice.
macro_rules! reason_enum {
    (
        $(#[$enum_meta:meta])*
        pub enum $type:ident {
            $(
                $(#[$meta:meta])*
                $variant:ident $({ $($(#[$field_meta:meta])* $field:ident: $field_type:ty,)* })?
                    = $name:literal, $sentence:literal, $advice:literal;
            )*
        }
    ) => {
        $(#[$enum_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum $type {
            $(
                $(#[$meta])*
                #[error($sentence)]
                $variant $({ $($(#[$field_meta])* $field: $field_type,)* })?,
            )*
        }

        impl $type {
            /// Every reason, in the order in which the checks are made.
            pub const REASONS: &'static [$crate::reason::Reason] = &[
                $($crate::reason::Reason { name: $name, template: $sentence, advice: $advice },)*
            ];

            /// Stable name in kebab-case.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }

            /// What to try.
            pub const fn advice(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $advice,)*
                }
            }
        }
    };
}
pub(crate) use reason_enum;

const TABLES: &[&[Reason]] = &[
    crate::ImageError::REASONS,
    crate::SigstructError::REASONS,
    crate::elf::RelocationError::REASONS,
    crate::Linux73Refusal::REASONS,
    #[cfg(feature = "verify")]
    crate::verify::VerifyError::REASONS,
    #[cfg(feature = "build")]
    crate::build::BuildError::REASONS,
];

/// Every reason of this crate.
pub fn reasons() -> impl Iterator<Item = &'static Reason> {
    TABLES.iter().copied().flatten()
}

/// The reason with a name.
pub fn find_reason(name: &str) -> Option<&'static Reason> {
    reasons().find(|reason| reason.name == name)
}
