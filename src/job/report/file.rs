//! Where reports go: files, each whole or not at all, and a step's summary, which others write to as well.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{Refresh, Report};

/// A report's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Markdown,
    Html,
}

/// A file that a report is to be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportFile {
    /// Absolute.
    pub path: PathBuf,
    pub format: Format,
}

/// The ending tells no form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a report is written as JSON, Markdown or HTML, which the file's ending tells: .json, .md or .html"
)]
pub struct UnknownEnding;

impl Report {
    /// In that form.
    ///
    /// # Errors
    /// None that is known.
    pub fn text(&self, format: Format) -> io::Result<String> {
        match format {
            Format::Json => Ok(self.json()?),
            Format::Markdown => Ok(self.markdown()),
            Format::Html => Ok(self.html(Refresh::Never)),
        }
    }
}

impl ReportFile {
    /// The file at `path`, in the form that its ending tells.
    pub fn new(path: PathBuf) -> Result<Self, UnknownEnding> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let format = match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("json") => Format::Json,
            Some("md" | "markdown") => Format::Markdown,
            Some("html" | "htm") => Format::Html,
            _ => return Err(UnknownEnding),
        };
        Ok(Self { path, format })
    }

    /// Whether it can be written, as far as that can be told beforehand.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub fn check(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| found.is_dir()) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if self.is_special() {
            return Ok(());
        }
        let staged = self.staged()?;
        File::create(&staged)?;
        fs::remove_file(staged)
    }

    /// Puts the report in place of what the file was.
    ///
    /// # Errors
    /// It can't be written; what was there is there still.
    pub fn write(&self, report: &Report) -> io::Result<()> {
        let text = report.text(self.format)?;
        if self.is_special() {
            let mut file = OpenOptions::new().write(true).open(&self.path)?;
            return file.write_all(text.as_bytes());
        }
        let staged = self.staged()?;
        let written = File::create(&staged)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&staged, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&staged);
        }
        written
    }

    /// A pipe or a terminal is written to as it is.
    fn is_special(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| !found.is_file() && !found.is_dir())
    }

    /// Where it is written before it is whole.
    fn staged(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut staged = OsString::from(".");
        staged.push(name);
        staged.push(format!(".{}", std::process::id()));
        Ok(self.path.with_file_name(staged))
    }
}

/// Adds the report behind whatever is in a step's summary.
pub fn append_summary(file: &Path, report: &Report) -> io::Result<()> {
    let mut summary = OpenOptions::new().append(true).create(true).open(file)?;
    // What is there may end within a line.
    summary.write_all(format!("\n{}", report.markdown()).as_bytes())
}
