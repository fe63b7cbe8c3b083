//! The serde types of what Tocsin answers over HTTP: servers, terminal commands and tests use the same ones. No I/O.
