//! The host that the agent watches: where its files are, and calls into its kernel that may never return.

mod bounded;
pub mod clock;
mod open;
mod open_files;
mod own_descriptors;
mod paths;
mod pid_namespace;
mod replace;

pub use self::{
    bounded::{Bounded, Stuck},
    open::open_below,
    open_files::raise_open_files,
    own_descriptors::on_own_descriptors,
    paths::Paths,
    pid_namespace::is_pid_namespaced,
    replace::replace,
};
