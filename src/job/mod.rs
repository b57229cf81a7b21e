//! The life of a standin within a CI job: started with the job's steps or beside them, found again, asked, waited for,
//! stopped, and gone at the end whatever happens.
//!
//! Knows processes, the ready file and `standin`'s own command line; nothing of how the server works.

mod detach;
mod instance;
mod log;
mod parent;
mod process;
pub mod report;
mod run;
mod server;
mod signals;
mod status;

pub use self::{
    detach::detach,
    instance::{Instance, READY_FILE, Stopped},
    log::{LOG_FILE, log_to},
    parent::{Parent, end_with},
    process::{Process, start_of},
    run::{DIRECTORIES, Run, guard, write_from_background},
    server::Start,
    signals::is_ignored,
    status::Status,
};
