//! Does the source keep its layout: layers, sizes, and what must not be in it?

use std::fs;
use std::path::Path;

/// The modules, lowest first: each may use those before it, and itself.
const LAYERS: &[&str] = &[
    "primitives",
    "parallel",
    "format",
    "fork",
    "fs",
    "scan",
    "clock",
    "entry",
    "error",
    "hook",
    "options",
    "retention",
    "report",
    "observe",
    "sync",
    "bell",
    "watch",
    "ring",
    "segment",
    "cache",
    "chains",
    "cuts",
    "store",
    "stream",
    "streams",
    "recovery",
    "entries",
    "maintenance",
    "replica",
    "snapshot",
    "verify",
    "restore",
    "wal",
    "typed",
    "guide",
    "lib",
];
const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 90;

/// What a checker of schedules has to see being used; `src/primitives.rs` hands it over.
const PRIMITIVES: &[&str] = &["atomic", "Mutex", "Condvar", "RwLock"];

struct Source {
    /// Relative to the package.
    path: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found
}

impl Source {
    /// The module directly below the crate that the file belongs to.
    fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap();
        inner.split(['/', '.']).next().unwrap()
    }

    fn is_sim(&self) -> bool {
        self.path.starts_with("src/fs/sim")
    }

    /// Part of the program `keywal`, which is a user of the library like any other.
    fn is_program(&self) -> bool {
        self.path.starts_with("src/bin/")
    }

    /// Numbered lines of code: no comments, no strings, nothing from the module of unit tests on.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        let lines = (1..).zip(self.text.lines()).filter(|_| !self.path.ends_with("/tests.rs"));
        let code = lines.take_while(|(_, line)| !line.starts_with("mod tests {"));
        code.map(|(number, line)| {
            let code = line.split("//").next().unwrap();
            (number, code.split('"').step_by(2).collect::<Vec<_>>().join("\"\""))
        })
    }

    fn find(&self, words: &[&str], why: &str, findings: &mut Vec<String>) {
        for (number, line) in self.code() {
            for word in words.iter().filter(|word| line.contains(*word)) {
                findings.push(format!("{}:{number}: `{word}`: {why}", self.path));
            }
        }
    }
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

#[test]
fn nothing_points_up() {
    let mut findings = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_program()) {
        let from = source.module();
        let Some(own) = rank(from) else {
            findings.push(format!("{}:1: `{from}` has no place in LAYERS", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for used in line.split("crate::").skip(1) {
                let end = used.find(|c: char| !c.is_alphanumeric() && c != '_');
                let used = &used[..end.unwrap_or(used.len())];
                if rank(used).is_none_or(|used| used > own) {
                    findings.push(format!("{}:{number}: `{from}` uses `{used}`", source.path));
                }
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn each_file_keeps_to_its_business() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let touches_files = ["src/fs/os.rs", "src/fs/map.rs"].contains(&&*source.path);
        if !touches_files && !source.is_sim() && !source.is_program() {
            let why = "only src/fs/os.rs and map.rs touch the file system";
            source.find(&["std::fs", "rustix::fs", "rustix::mm", "fs2"], why, &mut findings);
        }
        if ["format", "retention"].contains(&source.module()) {
            let words =
                ["std::io", "io::", "crate::fs", "Instant", "SystemTime", "now()", "Clock>"];
            source.find(&words, "pure: no I/O, no clock", &mut findings);
        }
        if !["src/fork.rs", "src/fs/map.rs"].contains(&&*source.path) {
            source.find(&["unsafe "], "only fork.rs and fs/map.rs have unsafe code", &mut findings);
        }
        if !source.is_sim() {
            let words = ["unwrap()", ".expect(", "panic!", "todo!", "println!", "eprintln!"];
            source.find(&words, "not in the library", &mut findings);
        }
    }
    assert_none(&findings);
}

#[test]
fn locks_and_atomics_can_be_checked() {
    let mut findings = Vec::new();
    // Counters of the whole process are no part of a schedule.
    let exempt = ["src/primitives.rs", "src/fork.rs", "src/fs/os.rs"];
    for source in sources("src").iter().filter(|source| !exempt.contains(&&*source.path)) {
        let code: String = source.code().map(|(_, line)| line).collect();
        for used in code.split("std::sync::").skip(1) {
            let used = used.split(';').next().unwrap();
            for word in PRIMITIVES.iter().filter(|word| used.contains(*word)) {
                findings.push(format!("{}: `{word}` is not from crate::primitives", source.path));
            }
        }
        if code.contains("thread_local!") && !code.contains("primitives::thread_local;") {
            findings.push(format!("{}: `thread_local` is not from crate::primitives", source.path));
        }
    }
    assert_none(&findings);
}

#[test]
fn files_and_functions_are_short() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > MAX_FILE_LINES {
            findings.push(format!("{}:{}: the file is too long", source.path, lines.len()));
        }
        for (at, line) in lines.iter().enumerate() {
            // As rustfmt lays it out: a function ends with a brace under its first letter.
            let word = line.trim_start();
            let is_function =
                word.starts_with("fn ") || word.starts_with("pub") && word.contains(" fn ");
            let end = format!("{}}}", &line[..line.len() - word.len()]);
            let length = lines[at..].iter().take_while(|line| **line != end).count();
            let declared_only = lines[at..]
                .iter()
                .find(|line| line.ends_with([';', '{']))
                .is_some_and(|line| line.ends_with(';'));
            if is_function && !declared_only && length >= MAX_FUNCTION_LINES {
                findings.push(format!(
                    "{}:{}: {length} lines in one function",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn the_text_is_clean() {
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        for source in sources(folder) {
            if !source.text.starts_with("//!") {
                findings.push(format!("{}:1: no `//!` says what this is", source.path));
            }
            for (number, line) in (1..).zip(source.text.lines()) {
                if line.contains('\t') || line.ends_with(' ') {
                    findings.push(format!("{}:{number}: a tab or a trailing space", source.path));
                }
            }
        }
    }
    assert_none(&findings);
}
