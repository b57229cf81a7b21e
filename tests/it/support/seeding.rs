//! `standin seed` on a data directory that nobody serves.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use super::{TestRegistry, registry::Builder, saved::Saved};

/// A data directory that nobody serves yet, beside room for files.
pub(crate) struct Place {
    pub(crate) builder: Builder,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            builder: TestRegistry::builder(),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.builder.home().join(name)
    }

    pub(crate) fn saved(&self, name: &str, saved: &Saved) -> String {
        let path = self.file(name);
        saved.write(&path);
        format!("docker-archive:{}", path.display())
    }

    /// A program in the directory that is answered, for PATH.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let bin = self.file("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        bin
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
        command
            .args(["seed", "--data", self.builder.data().to_str().unwrap()])
            .args(["--state", self.builder.state().to_str().unwrap()])
            .args(args)
            .env_clear()
            .env("TMPDIR", self.builder.home())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn seed(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What is printed of images that are seeded.
    pub(crate) fn seeded(&self, args: &[&str]) -> Vec<(String, String)> {
        told(&self.seed(args))
    }

    pub(crate) fn piped(&self, args: &[&str], input: &[u8]) -> Output {
        output_of(&mut self.command(args), input)
    }

    /// Nothing can be pulled, and nothing lies about.
    pub(crate) fn assert_untouched(&self, why: &str) {
        let store = self.builder.store();
        assert_eq!(store.below("namespaces"), Default::default(), "{why}");
        let left: Vec<_> = std::fs::read_dir(self.builder.home())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".standin"))
            .collect();
        assert_eq!(left, [""; 0], "{why}");
    }
}

/// What a command says that is given `input`.
pub(crate) fn output_of(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have refused by now what it has read of it.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

pub(crate) fn told(output: &Output) -> Vec<(String, String)> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let pair = |line: &str| {
        let (name, digest) = line.split_once(' ').unwrap();
        (name.to_owned(), digest.to_owned())
    };
    lines.lines().map(pair).collect()
}

pub(crate) fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{said}");
    said
}
