//! What the binary tells of itself: completions that shells really complete by, and a manual that groff really renders.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

fn standin(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(args)
        .output()
        .unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = standin(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `bash` offers when the last of `words` is completed.
fn completed(words: &[&str]) -> BTreeSet<String> {
    let script = format!(
        "{}\nCOMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) COMPREPLY=()
         _standin standin \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        printed(&["completions", "bash"])
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &script, "bash"])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    for (words, wanted) in [
        (&["standin", "ser"][..], &["serve"][..]),
        (&["standin", "ca", "m"], &["mint"]),
        (&["standin", "serve", "--offl"], &["--offline"]),
        (
            &["standin", "serve", "--tls-"],
            &["--tls-cert", "--tls-key"],
        ),
        (&["standin", "configure", "pod"], &["podman"]),
        (
            &["standin", "configure", "docker", "--mode", "mi"],
            &["mirror"],
        ),
        (&["standin", "completions", "b"], &["bash"]),
        (&["standin", "nonsense-"], &[""]),
    ] {
        let wanted: BTreeSet<String> = wanted.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(completed(words), wanted, "{words:?}");
    }
}

#[test]
fn each_shell_gets_a_script_and_another_is_refused_with_their_names() {
    for (shell, begins) in [
        ("bash", "_standin()"),
        ("zsh", "#compdef standin"),
        ("fish", "# Print an optspec"),
        ("elvish", "\nuse builtin"),
        ("powershell", "\nusing namespace"),
    ] {
        let script = printed(&["completions", shell]);
        assert!(script.starts_with(begins), "{shell}: {script:.60}");
        assert!(script.contains("ready-file"), "{shell}");
        // clap's sign for a line break, which no shell knows.
        assert!(!script.contains("{n}"), "{shell}");
    }
    let output = standin(&["completions", "csh"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bash, elvish, fish"), "{said}");
}

#[test]
fn every_command_has_a_page_that_groff_renders_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("share/man1");
    let paths = printed(&["man", "--dir", directory.to_str().unwrap()]);
    let mut names = BTreeSet::new();
    for path in paths.lines() {
        let page = fs::read_to_string(path).unwrap();
        let name = path.rsplit('/').next().unwrap().to_owned();
        let title = name.strip_suffix(".1").unwrap().to_uppercase();
        assert!(page.contains(&format!(".TH {title} 1")), "{page:.200}");
        assert!(!page.contains("{n}"), "{name}");
        if let Some(text) = rendered(&page) {
            assert!(text.contains("SEE ALSO"), "{name}: {text}");
        }
        names.insert(name);
    }
    for name in ["standin.1", "standin-serve.1", "standin-ca-mint.1"] {
        assert!(names.contains(name), "{names:?}");
    }
    let on_disk: BTreeSet<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, on_disk);
}

#[test]
fn one_page_is_printed_and_a_command_that_is_none_is_refused() {
    let page = printed(&["man"]);
    assert!(page.contains("standin\\-serve"), "{page}");
    let page = printed(&["man", "ca", "mint"]);
    assert!(page.contains("standin ca mint"), "{page}");
    if let Some(text) = rendered(&printed(&["man", "configure"])) {
        let example = "\n       eval \"$(standin configure env)\"\n";
        assert!(text.contains(example), "{text}");
    }
    let output = standin(&["man", "ca", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no command \"ca nothing\""), "{said}");
}

/// `page` as a terminal shows it; `None` where there is no groff, which `scripts/test` installs.
fn rendered(page: &str) -> Option<String> {
    let mut groff = Command::new("groff")
        .args(["-man", "-ww", "-Tascii", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = groff.stdin.take().unwrap();
    let page = page.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(page.as_bytes()).unwrap());
    let output = groff.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    Some(String::from_utf8(output.stdout).unwrap())
}
