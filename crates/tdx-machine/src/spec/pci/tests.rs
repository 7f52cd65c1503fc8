//! What can be and what cannot.
