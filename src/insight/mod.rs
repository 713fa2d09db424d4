//! What a model did: spikes, additions and silent neurons, counted by the device; energy under named cost models; and reports of
//! both. Nothing here reads files or needs threads, so that it runs in a browser as it does natively.
//!
//! Definitions, with their formulas and sources, stand in `ENERGY.md`.

pub mod anatomy;
pub mod comparison;
pub mod counts;
mod picture;
pub mod receipt;
pub mod report;
pub mod why;
