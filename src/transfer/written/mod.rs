//! Destinations on disk: OCI layouts and archives, whose bytes depend on the images alone.
//!
//! Everything is staged beside the place that it is for, and goes there when the last image is whole; a writer that is
//! dropped before takes what it staged with it.

mod archive;
mod docker;
mod layout;
mod names;
mod staged;
mod tar;

pub use archive::Target;
pub use docker::DockerWriter;
pub use layout::LayoutWriter;

use crate::types::{RegistryHost, Tag};

/// How images are called in what is written.
#[derive(Clone, Debug)]
pub struct Names {
    /// The registry of names that name none.
    pub default: RegistryHost,
    /// In place of each image's own.
    pub tag: Option<Tag>,
}
