//! Scenarios: what happens to a host, step by step, and which faults are open after each step.

mod clear;
mod devices;
mod filesystems;
mod host;
mod memory;
mod probes;
