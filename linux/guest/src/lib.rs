//! What the first program of a small Linux is asked to check, and how it answers.
