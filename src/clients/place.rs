//! Where on this machine, or in another file system root, clients keep their files and we keep ours.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// A file system root, and whose files in it are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    root: PathBuf,
    home: Option<Home>,
}

/// The directories of a user who is not root. Absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub config: PathBuf,
    /// `$XDG_STATE_HOME`, or `~/.local/state`.
    pub state: PathBuf,
    /// `$XDG_RUNTIME_DIR`, where a rootless daemon leaves its process id.
    pub runtime: Option<PathBuf>,
}

impl Place {
    /// This machine's own, as root.
    pub fn system() -> Self {
        Self {
            root: "/".into(),
            home: None,
        }
    }

    /// This machine's own, as a user.
    pub fn of_user(home: Home) -> Self {
        Self {
            root: "/".into(),
            home: Some(home),
        }
    }

    /// Another root: no program is run and no process signalled for it. `root` is absolute.
    pub fn under(root: PathBuf) -> Self {
        Self { root, home: None }
    }

    /// Whether programs and daemons may be asked about what is here.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Whether the files are those of a user who is not root.
    pub(super) fn is_users(&self) -> bool {
        self.home.is_some()
    }

    /// The root; all is below it.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The path by which we reach what is called `path` inside the root.
    pub(super) fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Our journal and its backups.
    pub(super) fn journal(&self) -> PathBuf {
        match &self.home {
            None => "/var/lib/standin/configure".into(),
            Some(home) => home.state.join("standin/configure"),
        }
    }

    /// The lock of a run that has its clients set up, as we reach it.
    pub fn run_lock(&self) -> PathBuf {
        self.outside(&self.journal()).with_file_name("run.lock")
    }

    /// What clients' files name: it stays when the job's own directories are gone.
    pub(super) fn ours(&self) -> PathBuf {
        self.etc("standin")
    }

    /// `name` below `/etc`, or below the user's own.
    pub(super) fn etc(&self, name: &str) -> PathBuf {
        match &self.home {
            None => Path::new("/etc").join(name),
            Some(home) => home.config.join(name),
        }
    }

    /// Where a daemon called `name` leaves its process id.
    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        match &self.home {
            None => Path::new("/run").join(name),
            Some(home) => home
                .runtime
                .as_deref()
                .unwrap_or(Path::new("/run"))
                .join(name),
        }
    }

    /// Refuses a client whose files only root may write.
    pub(super) fn needs_root(&self, what: &str) -> Result<(), Error> {
        match self.home {
            None => Ok(()),
            Some(_) => Err(Error::Unfit(format!(
                "{what} is root's to change: run this as root, or give --root DIR"
            ))),
        }
    }

    /// Whether systemd starts daemons here.
    pub(super) fn has_systemd(&self) -> bool {
        // The directory of units alone says nothing: container images ship it too.
        self.home.is_none()
            && (self.outside(Path::new("/run/systemd/system")).is_dir()
                || !self.is_live() && self.outside(Path::new("/etc/systemd/system")).is_dir())
    }
}
