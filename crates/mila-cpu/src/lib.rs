//! The fast CPU executor.
