//! Does the program `keywal` do what its help says, as a new user would try it?
//!
//! `cargo test --features cli --test cli`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use keywal::{KeyOptions, ManualClock, Retention, Wal, WalOptions, WalReader};
use serde_json::{Value, json};

use common::child;

const OK: i32 = 0;
const ERROR: i32 = 1;
const USAGE: i32 = 2;
const DAMAGE: i32 = 3;
const LOCKED: i32 = 4;

/// What a run of the program gave.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("the program was killed"),
            out: String::from_utf8(output.stdout).expect("the output is text"),
            err: String::from_utf8(output.stderr).expect("the messages are text"),
        }
    }

    /// The output, if the program ended like this.
    #[track_caller]
    fn gave(self, code: i32) -> String {
        assert_eq!(self.code, code, "\n{}{}", self.out, self.err);
        self.out
    }

    /// What it said, if it failed like this.
    #[track_caller]
    fn said(self, code: i32) -> String {
        assert_eq!(self.code, code, "\n{}{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }

    #[track_caller]
    fn json(self, code: i32) -> Value {
        serde_json::from_str(&self.gave(code)).unwrap()
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keywal"))
}

/// Runs the program in a directory, with this standard input.
fn feed(home: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut command = program();
    command.args(args).current_dir(home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may refuse to read.
    let _ = child.stdin.take().unwrap().write_all(input);
    Ran::of(child.wait_with_output().unwrap())
}

fn run(home: &Path, args: &[&str]) -> Ran {
    feed(home, args, b"")
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn rows(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Exported entries, without what an import makes anew.
fn payloads(lines: &str) -> Vec<Value> {
    let mut rows = rows(lines);
    for row in &mut rows {
        let is_entry = row.get("retention").is_none();
        for made in ["index", "time", "ref"].iter().filter(|_| is_entry) {
            assert!(row.as_object_mut().unwrap().remove(*made).is_some(), "no {made}: {row}");
        }
    }
    rows
}

/// Lines, of which each is to be an entry.
fn numbered(numbers: Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("entry {n}\n")).collect()
}

/// The only segment of a key.
fn segment(dir: &Path, label: &str) -> PathBuf {
    let mut found = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(label) && name.as_bytes()[label.len()] == b'-'
    });
    let path = found.next().unwrap();
    assert!(found.next().is_none());
    path
}

/// What a directory holds, byte for byte.
fn files(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let with_content = files.map(|path| {
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        let content = fs::read(&path).unwrap();
        (path, (changed, content))
    });
    with_content.collect()
}

/// Overwrites a part of a file, counted from its end.
fn damage(path: &Path, before_end: usize, bytes: usize) {
    let mut content = fs::read(path).unwrap();
    let from = content.len() - before_end;
    content[from..from + bytes].iter_mut().for_each(|byte| *byte ^= 0x5A);
    fs::write(path, content).unwrap();
}

#[test]
fn what_was_appended_is_listed_read_and_counted() {
    let home = home();
    let home = home.path();
    let said =
        feed(home, &["append", "log", "topic-7", "--header", "h"], b"one\ntwo\n\nfour").gave(OK);
    assert_eq!(said, "topic-7: 4 entries appended, indexes 0 to 3\n");
    assert_eq!(run(home, &["cat", "log", "topic-7"]).gave(OK), "one\ntwo\n\nfour\n");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--from", "1", "--to", "2"]).gave(OK), "two\n");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--from", "3", "--to", "1"]).gave(OK), "");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--from", "9"]).gave(OK), "");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--reverse", "-n2"]).gave(OK), "four\n\n");
    assert_eq!(run(home, &["tail", "log", "topic-7", "-n1"]).gave(OK), "four\n");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--since", "1h", "-n1"]).gave(OK), "four\n");
    assert_eq!(run(home, &["cat", "log", "topic-7", "--until", "1h"]).gave(OK), "");
    assert_eq!(run(home, &["get", "log", "topic-7", "1", "--raw"]).gave(OK), "two");
    let long = run(home, &["get", "log", "topic-7", "1", "--headers"]).gave(OK);
    let parts: Vec<&str> = long.trim_end().split('\t').collect();
    assert!(matches!(parts[..], ["1", time, "h", "two"] if time.ends_with('Z')), "{long}");

    let entry = run(home, &["get", "log", "topic-7", "1", "--json"]).json(OK);
    let reference = entry["ref"].as_str().unwrap();
    assert_eq!(run(home, &["get", "log", "--ref", reference, "--json"]).json(OK), entry);
    assert_eq!(run(home, &["get", "log", "--ref", reference]).gave(OK), "two\n");

    let appended = feed(home, &["append", "log", "b", "--whole", "--durable", "--json"], b"x\ny\n");
    let appended = appended.json(OK);
    assert_eq!((&appended["entries"], &appended["next_index"]), (&json!(1), &json!(1)));
    assert_eq!(run(home, &["get", "log", "b", "0", "--raw"]).gave(OK), "x\ny\n");

    let keys = rows(&run(home, &["ls", "log", "--json"]).gave(OK));
    assert_eq!(keys.len(), 2);
    assert_eq!((&keys[1]["key"], &keys[1]["entries"]), (&json!("topic-7"), &json!(4)));
    let table = run(home, &["ls", "log"]).gave(OK);
    assert!(table.lines().nth(2).unwrap().ends_with(" topic-7"), "{table}");
    let segments = rows(&run(home, &["ls", "log", "topic-7", "--json"]).gave(OK));
    assert_eq!((segments.len(), &segments[0]["next_index"]), (1, &json!(4)));
    let stats = run(home, &["stats", "log", "--json"]).json(OK);
    assert_eq!((&stats["keys"], &stats["entries"]), (&json!(2), &json!(5)));
    assert!(run(home, &["stats", "log"]).gave(OK).contains("entries                  5\n"));
    assert!(
        run(home, &["verify", "log"])
            .gave(OK)
            .contains("5 entries in 2 keys can be read; no damage")
    );
}

#[test]
fn any_bytes_are_a_key_and_a_content() {
    let home = home();
    let home = home.path();
    let keys: [(&str, &str); 6] = [
        (r"\xff\n\\", "ff0a5c"),
        (r"\u{1b}[31m", "1b5b33316d"),
        (r"\u{202e}evil", "e280ae6576696c"),
        ("''", ""),
        ("é 'q\"", "c3a9202771 22"),
        (r"..\0/../etc", "2e2e002f2e2e2f657463"),
    ];
    for (n, (key, hex)) in keys.iter().enumerate() {
        let content = [format!("{n} ").as_bytes(), b"\x00\xff\x1b[2J\r\n"].concat();
        let given = if *key == "''" { "" } else { *key };
        feed(home, &["append", "log", given, "--whole"], &content).gave(OK);
        let hex = hex.replace(' ', "");
        let shown = run(home, &["cat", "log", &hex, "--hex"]).gave(OK);
        assert_eq!(shown, format!("{n} \\0\\xff\\u{{1b}}[2J\\r\\n\n"));
        let output = program().args(["get", "log", given, "0", "--raw"]).current_dir(home).output();
        assert_eq!(output.unwrap().stdout, content);
    }
    let listed = run(home, &["ls", "log"]).gave(OK);
    assert!(listed.chars().all(|letter| letter == '\n' || !letter.is_control()), "{listed:?}");
    for (key, _) in keys {
        assert!(listed.lines().any(|line| line.ends_with(&format!(" {key}"))), "{key}: {listed}");
    }
    // And through JSON, byte for byte.
    let exported = run(home, &["export", "log"]).gave(OK);
    feed(home, &["import", "copy"], exported.as_bytes()).gave(OK);
    let copied = run(home, &["export", "copy"]).gave(OK);
    assert_eq!(payloads(&copied), payloads(&exported));
    assert_eq!(payloads(&exported).len(), keys.len());
    let one = run(home, &["export", "log", "", r"\xff\n\\"]).gave(OK);
    assert_eq!(rows(&one).len(), 2);
}

#[test]
fn wrong_usage_says_what_is_right_and_touches_nothing() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "k"], b"x\n").gave(OK);
    let before = run(home, &["export", "log"]).gave(OK);
    for args in [
        &[][..],
        &["nonsense"],
        &["ls"],
        &["cat", "log"],
        &["cat", "log", r"\q"],
        &["cat", "log", "0g", "--hex"],
        &["cat", "log", "k", "--since", "yesterday"],
        &["cat", "log", "k", "--raw", "--json"],
        &["get", "log", "k"],
        &["get", "log", "--ref", "00"],
        &["get", "log", "k", "0", "--ref", "00000000000000000000000000000000"],
        &["compact", "log"],
        &["compact", "log", "--retention", "0s"],
        &["append", "log", "k", "--max-segment-bytes", "1"],
        &["remove", "log", "k"],
        &["destroy", "log"],
        &["import", "log", "file", "--from-nano-wal", "dir"],
    ] {
        let said = run(home, args).said(USAGE);
        assert!(!said.is_empty(), "{args:?}");
    }
    for (args, what) in [
        (&["cat", "log", "missing"][..], "there is no key missing"),
        (&["get", "log", "missing", "0"], "there is no key missing"),
        (&["get", "log", "k", "7"], "k has no entry 7 yet: the next one will be 1"),
        (&["get", "log", "--ref", "00000000000000000000000100000284"], "does not lead to an entry"),
        (&["export", "log", "missing"], "there is no key missing"),
        (&["remove", "log", "missing", "--yes"], "there is no key missing"),
        (&["import", "log", "missing"], "cannot open the file"),
        (&["import", "log", "--from-nano-wal", "log"], "nothing to import"),
        (&["man", "missing"], "cannot write"),
    ] {
        let said = run(home, args).said(ERROR);
        assert!(said.contains(what), "{args:?}: {said}");
    }
    assert_eq!(run(home, &["export", "log"]).gave(OK), before);
    for help in ["--help", "help"] {
        assert!(run(home, &[help]).gave(OK).contains("Exit codes"));
    }
    let help = run(home, &["get", "--help"]).gave(OK);
    assert!(help.contains("keywal get [OPTIONS] <DIR> <KEY> <INDEX>\n"), "{help}");
    assert!(help.contains("append --json"), "{help}");
    assert!(run(home, &["--version"]).gave(OK).starts_with("keywal "));
}

/// Opening a directory makes it a log: the program does not do that to any.
#[test]
fn a_directory_that_is_no_log_is_left_alone() {
    let home = home();
    let home = home.path();
    fs::create_dir(home.join("empty")).unwrap();
    fs::create_dir(home.join("other")).unwrap();
    fs::write(home.join("other/notes.log"), "mine").unwrap();
    fs::write(home.join("file"), "mine").unwrap();
    for dir in ["missing", "empty", "other", "file"] {
        for command in ["ls", "stats", "verify", "export"] {
            run(home, &[command, dir]).said(ERROR);
        }
        run(home, &["cat", dir, "k"]).said(ERROR);
        run(home, &["repair", dir, "--yes"]).said(ERROR);
        run(home, &["compact", dir, "--retention", "7d"]).said(ERROR);
        run(home, &["destroy", dir, "--yes"]).said(ERROR);
    }
    for dir in ["other", "file"] {
        let said = feed(home, &["append", dir, "k"], b"x\n").said(ERROR);
        assert!(said.contains(dir), "{said}");
    }
    assert!(!home.join("missing").exists());
    assert_eq!(fs::read_dir(home.join("empty")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.join("other")).unwrap().count(), 1);
    feed(home, &["append", "empty", "k"], b"x\n").gave(OK);
    // A creation that was cut off is gone on with.
    fs::create_dir(home.join("cut off")).unwrap();
    fs::write(home.join("cut off/LOCK"), "").unwrap();
    feed(home, &["append", "cut off", "k"], b"x\n").gave(OK);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = home();
    let lines = numbered(0..100_000).concat();
    feed(home.path(), &["append", "log", "k"], lines.as_bytes()).gave(OK);
    for args in [&["cat", "log", "k"][..], &["export", "log"]] {
        let mut command = program();
        command.args(args).current_dir(home.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("entry 0"), "{line}");
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!((ran.code, &*ran.err), (OK, ""));
    }
    // A full disk is another matter.
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    if let Ok(full) = full {
        let mut command = program();
        let output =
            command.args(["cat", "log", "k"]).current_dir(home.path()).stdout(full).output();
        let said = Ran::of(output.unwrap()).said(ERROR);
        assert!(said.contains("cannot write the output"), "{said}");
    }
}

#[test]
fn bad_lines_are_named_and_nothing_is_lost() {
    let home = home();
    let home = home.path();
    let line = |key: &str, n: u32| format!("{{\"key\":\"{key}\",\"content\":\"{n}\"}}\n");
    let good = line("a", 1) + "\n" + &line("b", 2);
    let bad = good.clone() + "{\"key\":\"a\",\"contnt\":\"3\"}\n" + &line("a", 4);
    fs::write(home.join("bad"), &bad).unwrap();

    // Of a file, nothing.
    let said = run(home, &["import", "log", "bad"]).said(ERROR);
    assert!(said.contains("nothing was imported") && said.contains("line 4: "), "{said}");
    assert!(!home.join("log").exists());

    // Of a pipe, what came before; and it can be gone on from there.
    let said = feed(home, &["import", "log"], bad.as_bytes()).said(ERROR);
    assert!(said.contains("2 entries were imported"), "{said}");
    assert!(said.contains("go on with --resume"), "{said}");
    let mended = bad.replace("contnt", "content");
    fs::write(home.join("mended"), mended).unwrap();
    let said = run(home, &["import", "log", "mended", "--from-line", "4"]).said(ERROR);
    assert!(said.contains("a has entries already"), "{said}");
    run(home, &["import", "log", "mended", "--append", "--from-line", "4"]).gave(OK);
    // Or with what was there compared, entry by entry.
    feed(home, &["import", "again"], bad.as_bytes()).said(ERROR);
    run(home, &["import", "again", "mended", "--resume"]).gave(OK);
    assert_eq!(run(home, &["cat", "again", "a"]).gave(OK), "1\n3\n4\n");
    let said = feed(home, &["import", "again", "--append"], bad.as_bytes()).said(ERROR);
    assert!(said.contains("2 entries were imported; go on with --append --from-line 4"), "{said}");
    assert_eq!(run(home, &["cat", "log", "a"]).gave(OK), "1\n3\n4\n");
    let said = run(home, &["import", "log", "bad", "--from-line", "9"]).said(ERROR);
    assert!(said.contains("has 5 lines"), "{said}");

    let hostile = b"{\"key\":\"a\",\"content\":\"\",\"\\u001b[2J\":\"\"}\n";
    let said = feed(home, &["import", "log"], hostile).said(ERROR);
    assert!(said.contains(r"unknown field `\u{1b}[2J`"), "{said:?}");

    // Or they are put aside.
    let ran = run(home, &["import", "other", "bad", "--rejects", "rejects", "--json"]);
    assert!(ran.err.contains("line 4: unknown field `contnt`"), "{}", ran.err);
    let done = ran.json(DAMAGE);
    assert_eq!((&done["entries"], &done["rejected_lines"]), (&json!(3), &json!(1)));
    let rejects = fs::read_to_string(home.join("rejects")).unwrap();
    assert_eq!(rejects, "{\"key\":\"a\",\"contnt\":\"3\"}\n");
    let said = run(home, &["import", "third", "bad", "--rejects", "rejects"]).said(ERROR);
    assert!(said.contains("rejects: cannot create the file"), "{said}");
    assert_eq!(fs::read_to_string(home.join("rejects")).unwrap(), rejects);
}

#[test]
fn what_is_too_long_is_refused_before_anything_is_kept_of_it() {
    let home = home();
    let home = home.path();
    let small = ["append", "log", "k", "--max-segment-bytes", "8192"];
    let long = [b"short\n".to_vec(), vec![b'x'; 100_000]].concat();
    let said = feed(home, &small, &long).said(ERROR);
    assert!(said.contains("1 entry was appended, then: "), "{said}");
    assert_eq!(run(home, &["cat", "log", "k"]).gave(OK), "short\n");
    let whole = [&small[..], &["--whole"]].concat();
    feed(home, &whole, &long).said(ERROR);
    assert_eq!(run(home, &["cat", "log", "k"]).gave(OK), "short\n");

    let entry = json!({"key": "k".repeat(70_000), "content": "c"}).to_string();
    let said = feed(home, &["import", "log"], entry.as_bytes()).said(ERROR);
    assert!(said.contains("line 1: the key has 70000 bytes"), "{said}");
    let entry = json!({"key": "j", "header": "h".repeat(70_000), "content": "c"}).to_string();
    let said = feed(home, &["import", "log"], entry.as_bytes()).said(ERROR);
    assert!(said.contains("line 1: the header has 70000 bytes"), "{said}");
    let entry = json!({"key": "j", "content": "c".repeat(70_000)}).to_string();
    let args = ["import", "log", "--max-segment-bytes", "8192"];
    let said = feed(home, &args, entry.as_bytes()).said(ERROR);
    assert!(said.contains("line 1: 70000 bytes, 8192 are the most"), "{said}");
    assert_eq!(rows(&run(home, &["ls", "log", "--json"]).gave(OK)).len(), 1);
}

#[test]
fn damage_is_named_contained_and_repaired_with_consent() {
    let home = home();
    let home = home.path();
    let lines = numbered(0..10).concat();
    for key in ["middle", "end", "sound"] {
        feed(home, &["append", "log", key], lines.as_bytes()).gave(OK);
    }
    // A frame is 32 bytes and the content; a mark of 32 bytes ends the file.
    damage(&segment(&home.join("log"), "middle"), 32 + 4 * 39 + 3, 1);
    damage(&segment(&home.join("log"), "end"), 32 + 39, 32 + 39);

    let ran = run(home, &["cat", "log", "middle"]);
    assert!(ran.err.contains("middle-") && ran.err.contains("damaged from offset"), "{}", ran.err);
    let left = [numbered(0..5), numbered(6..10)].concat();
    assert_eq!(ran.gave(DAMAGE), left.concat());
    run(home, &["get", "log", "middle", "5"]).said(DAMAGE);
    assert_eq!(run(home, &["get", "log", "middle", "6"]).gave(OK), "entry 6\n");
    assert_eq!(run(home, &["cat", "log", "sound"]).gave(OK), lines);
    assert_eq!(rows(&run(home, &["export", "log"]).gave(DAMAGE)).len(), 28);
    let verified = run(home, &["verify", "log", "--json"]).json(DAMAGE);
    assert_eq!((&verified["entries"], &verified["closed_cleanly"]), (&json!(28), &json!(true)));
    let damaged = verified["damaged_keys"].as_array().unwrap().iter();
    let mut damaged: Vec<&str> = damaged.map(|key| key["key"].as_str().unwrap()).collect();
    damaged.sort_unstable();
    assert_eq!(damaged, ["end", "middle"]);
    let said = run(home, &["verify", "log"]).gave(DAMAGE);
    assert!(said.contains("\ndamaged: key end: 9 entries can be read\n"), "{said}");
    assert!(said.ends_with("log: 28 entries in 3 keys can be read; 2 damaged places\n"), "{said}");
    // On a terminal, the advice is what comes last.
    let terminal = fs::File::create(home.join("terminal")).unwrap();
    let mut command = program();
    command.args(["verify", "log"]).current_dir(home).stdout(terminal.try_clone().unwrap());
    assert_eq!(command.stderr(terminal).status().unwrap().code(), Some(DAMAGE));
    let shown = fs::read_to_string(home.join("terminal")).unwrap();
    assert!(shown.starts_with(&said) && shown.contains("restore"), "{shown}");
    assert_eq!(rows(&run(home, &["ls", "log", "--json"]).gave(DAMAGE)).len(), 3);
    let said = run(home, &["stats", "log"]).said(DAMAGE);
    assert!(said.starts_with("keywal: end: log/end-"), "{said}");

    // Damage in the middle keeps nobody from appending, damage at the end does.
    feed(home, &["append", "log", "middle"], b"more\n").gave(OK);
    let said = feed(home, &["append", "log", "end"], b"more\n").said(DAMAGE);
    assert!(said.contains("keywal repair"), "{said}");
    let said = run(home, &["repair", "log"]).said(USAGE);
    assert!(said.contains("--yes") && said.contains("end: "), "{said}");
    feed(home, &["append", "log", "end"], b"more\n").said(DAMAGE);

    let damaged = fs::read(segment(&home.join("log"), "end")).unwrap();
    let repaired =
        run(home, &["repair", "log", "--yes", "--copy-to", "copies", "--json"]).json(DAMAGE);
    assert_eq!(
        (&repaired["keys"][0]["key"], &repaired["keys"][0]["next_index"]),
        (&json!("end"), &json!(9))
    );
    assert_eq!(fs::read(segment(&home.join("copies"), "end")).unwrap(), damaged);
    assert_eq!(fs::read_dir(home.join("copies")).unwrap().count(), 1);
    feed(home, &["append", "log", "end"], b"more\n").gave(OK);
    let all = run(home, &["cat", "log", "end"]).gave(OK);
    assert_eq!(all, lines.replace("entry 9", "more"));
    let ran = run(home, &["repair", "log"]);
    assert!(ran.err.contains("damage that repair does not treat: log/middle-"), "{}", ran.err);
    assert_eq!(ran.gave(DAMAGE), "log: no key's end is damaged\n");

    // What is there is not written over.
    damage(&home.join("log").join(newest(home, "end")), 32 + 36, 32 + 36);
    let said = run(home, &["repair", "log", "--yes", "--copy-to", "copies"]).said(ERROR);
    assert!(said.contains("copies: cannot create the directory"), "{said}");
    feed(home, &["append", "log", "end"], b"more\n").said(DAMAGE);
    // What goes is said, as far as anybody can know it.
    let said = run(home, &["repair", "log", "--yes", "--copy-to", "others"]).gave(DAMAGE);
    let on = "end goes on at index 9: later indexes, if any were given, will be given again\n";
    assert!(said.starts_with(on), "{said}");
}

/// A key whose only header is gone can be neither listed nor repaired: each command says what can be done.
#[test]
fn a_key_that_cannot_be_listed_is_explained() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "head"], b"x\n").gave(OK);
    let head = segment(&home.join("log"), "head");
    let bytes = usize::try_from(fs::metadata(&head).unwrap().len()).unwrap();
    damage(&head, bytes, bytes);
    let named = format!(
        "{}: damaged: no valid file header",
        Path::new("log").join(head.file_name().unwrap()).display()
    );
    for (args, what) in [
        (&["ls", "log"][..], "keywal: 1 key cannot be listed: "),
        (&["verify", "log"], "keywal: what is lost comes back from a snapshot only"),
        (&["stats", "log"], "keywal: 1 key cannot be listed: "),
        (&["repair", "log"], "are left alone: restore their files from a snapshot"),
        (&["append", "log", "head"], "see what `keywal repair` can do"),
        (&["cat", "log", "head"], &named),
    ] {
        let said = run(home, args).said(DAMAGE);
        assert!(said.contains(what), "{args:?}: {said}");
    }
    let said = run(home, &["compact", "log", "--retention", "7d"]).said(ERROR);
    assert_eq!(said.matches("no valid file header").count(), 1, "{said}");
    assert!(said.starts_with(&format!("keywal: {named}\n")), "{said}");
}

/// What a log can lose so that only opening it can tell, and what is said of that.
const LOSSES: [(&str, &str); 4] = [
    ("facts", "META: damaged: missing or damaged; its facts are put together anew"),
    ("journal", "JOURNAL: damaged: the journal is missing or cut off"),
    ("oldest", ": damaged: segment files were added or removed while the directory was closed"),
    ("newest", ": damaged: segment files were added or removed while the directory was closed"),
];

/// Makes a log that has lost this, with a key `k` of several segments, and says which lines of it are left.
fn lossy(home: &Path, log: &str, loss: &str) -> Vec<String> {
    let mut lines = numbered(0..300);
    let options = WalOptions::default().max_segment_bytes(4096).max_entry_bytes(1024);
    let options = options.journal_bytes(1 << 20);
    let dir = home.join(log);
    let wal = Wal::new(&dir, options.clone()).unwrap();
    for line in &lines {
        wal.append_entry("k", None, line.trim_end(), false).unwrap();
    }
    let segments = wal.segments("k").unwrap();
    assert!(segments.len() > 2);
    wal.shutdown().unwrap();
    if loss == "journal" {
        // As a crash leaves it.
        let wal = Wal::new(&dir, options).unwrap();
        wal.append_entry("k", None, "only in the journal", false).unwrap();
        let crashed = home.join("crashed");
        fs::create_dir(&crashed).unwrap();
        for (path, (_, content)) in files(&dir) {
            fs::write(crashed.join(path.file_name().unwrap()), content).unwrap();
        }
        wal.shutdown().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(crashed, &dir).unwrap();
        fs::remove_file(dir.join("JOURNAL")).unwrap();
        return lines;
    }
    let gone = match loss {
        "oldest" => segments[0].indexes(),
        "middle" => segments[1].indexes(),
        "newest" => segments.last().unwrap().indexes(),
        _ => 0..0,
    };
    fs::remove_file(match loss {
        "oldest" => segments[0].path.clone(),
        "middle" => segments[1].path.clone(),
        "newest" => segments.last().unwrap().path.clone(),
        _ => dir.join("META"),
    })
    .unwrap();
    lines.drain(usize::try_from(gone.start).unwrap()..usize::try_from(gone.end).unwrap());
    lines
}

#[test]
fn what_opening_finds_lost_is_said_by_every_command_that_reads() {
    for (loss, what) in LOSSES {
        let home = home();
        let home = home.path();
        let left = lossy(home, "log", loss);
        let before = files(&home.join("log"));
        assert!(!left.is_empty());
        let middle = left[left.len() / 2].trim_end().strip_prefix("entry ").unwrap();
        for args in [
            &["ls", "log"][..],
            &["ls", "log", "k"],
            &["ls", "log", "--json"],
            &["cat", "log", "k"],
            &["cat", "log", "k", "--reverse"],
            &["get", "log", "k", middle],
            &["tail", "log", "k"],
            &["export", "log"],
            &["export", "log", "k"],
            &["retention", "log", "k"],
            &["stats", "log"],
            &["stats", "log", "--json"],
        ] {
            let ran = run(home, args);
            assert!(!ran.out.is_empty(), "{loss}: {args:?}");
            let said = ran.said(DAMAGE);
            assert_eq!(said.matches(what).count(), 1, "{loss}: {args:?}: {said}");
        }
        assert_eq!(run(home, &["cat", "log", "k"]).gave(DAMAGE), left.concat(), "{loss}");
        assert_eq!(rows(&run(home, &["export", "log"]).gave(DAMAGE)).len(), left.len());
        let said = run(home, &["verify", "log"]).said(DAMAGE);
        assert_eq!(said.contains("from a snapshot only"), loss != "facts", "{loss}: {said}");
        // The exit code of a failure stays that.
        let said = run(home, &["cat", "log", "missing"]).said(ERROR);
        assert!(said.contains(what) && said.contains("no key missing"), "{said}");
        assert!(files(&home.join("log")) == before, "{loss}");
    }
}

/// Whoever opens the log for itself is the last who can know.
#[test]
fn what_opening_finds_lost_is_said_by_every_command_that_writes() {
    for (loss, what) in LOSSES {
        let home = home();
        let home = home.path();
        for (n, args) in [
            &["append", "k"][..],
            &["append", "other", "--json"],
            &["compact", "--retention", "7d"],
            &["import", "--append"],
            &["retention", "k", "--forever"],
            &["remove", "k", "--yes"],
            &["snapshot", "copy"],
            &["repair"],
        ]
        .iter()
        .enumerate()
        {
            let log = format!("log {n}");
            lossy(home, &log, loss);
            let args = [&args[..1], &[&*log], &args[1..]].concat();
            let ran = feed(home, &args, b"{\"key\":\"k\",\"content\":\"x\"}\n");
            let done = ran.out.clone();
            // Who repeats what did not end with 0 would append twice.
            let said = ran.said(if args[0] == "append" { 0 } else { DAMAGE });
            assert!(said.contains(what), "{loss}: {args:?}: {said}");
            // Without its facts, a log has all of its entries.
            let advised = said.contains("from a snapshot");
            assert_eq!(advised, args[0] == "repair" && loss != "facts", "{loss}: {args:?}: {said}");
            assert!(!done.is_empty(), "{loss}: {args:?}: {said}");
            let _ = fs::remove_dir_all(home.join("copy"));
        }
    }
}

/// What a crash cut off is over once the log is opened to be written to, so it is said then.
#[test]
fn what_was_unfinished_is_said_by_every_command_that_writes() {
    for args in [&["append", "log", "other"][..], &["compact", "log", "--retention", "7d"]] {
        let home = home();
        let home = home.path();
        let wal = Wal::new(home.join("log"), WalOptions::default().journal_bytes(0)).unwrap();
        for content in ["whole", "cut off"] {
            wal.append_entry("k", None, content, false).unwrap();
        }
        drop(wal);
        let path = segment(&home.join("log"), "k");
        let bytes = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(&path).unwrap().set_len(bytes - 3).unwrap();
        let said = feed(home, args, b"x\n").said(OK);
        assert!(said.contains("unfinished from offset") && said.contains("36 bytes"), "{said}");
    }
}

#[test]
fn repair_names_what_it_cannot_bring_back() {
    let home = home();
    let home = home.path();
    lossy(home, "log", "newest");
    let ran = run(home, &["repair", "log"]);
    assert!(ran.err.contains("repair cannot bring back what is lost there"), "{}", ran.err);
    let said = ran.gave(DAMAGE);
    assert!(!said.contains("nothing to repair"), "{said}");
    lossy(home, "again", "newest");
    let repaired = run(home, &["repair", "again", "--json"]).json(DAMAGE);
    let lost = repaired["lost"].as_array().unwrap();
    assert_eq!((lost.len(), &lost[0]["path"]), (1, &json!("again")));
}

#[test]
fn repair_names_the_damage_that_it_does_not_treat() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "sound"], b"x\n").gave(OK);
    assert_eq!(
        run(home, &["repair", "log"]).gave(OK),
        "log: nothing to repair: no key's end is damaged\n"
    );
    // A key of which the only segment was cut off at 0.
    feed(home, &["append", "log", "empty"], b"x\n").gave(OK);
    fs::write(segment(&home.join("log"), "empty"), "").unwrap();
    // A segment that is missing in the middle, when opening does not know it any more.
    let left = lossy(home, "middle", "middle");
    run(home, &["repair", "middle"]).gave(DAMAGE);
    assert_eq!(run(home, &["cat", "middle", "k"]).gave(DAMAGE), left.concat());
    for (log, what) in [
        ("log", "-0001.log: no valid file header"),
        ("middle", "-0002.log: the segment is missing"),
    ] {
        let ran = run(home, &["repair", log]);
        let said = ran.err.lines().find(|line| line.contains(what)).unwrap_or_default();
        assert!(said.starts_with("keywal: damage that repair does not treat: "), "{}", ran.err);
        assert!(ran.err.contains("`keywal restore`"), "{}", ran.err);
        assert_eq!(ran.gave(DAMAGE), format!("{log}: no key's end is damaged\n"));
        let repaired = run(home, &["repair", log, "--json"]).json(DAMAGE);
        assert_eq!(repaired["untreated"].as_array().unwrap().len(), 1, "{repaired}");
        assert_eq!((&repaired["keys"], &repaired["lost"]), (&json!([]), &json!([])));
    }
}

#[test]
fn what_is_there_twice_and_damaged_once_is_named_and_no_damage() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "k"], b"x\n").gave(OK);
    for path in [home.join("log/META"), segment(&home.join("log"), "k")] {
        let bytes = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        damage(&path, bytes, 1);
    }
    let said = run(home, &["verify", "log"]).gave(OK);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(
        lines[0].starts_with("weakened: log/META: from offset 0, 128 bytes: one of two copies")
    );
    assert!(lines[1].starts_with("weakened: log/k-") && lines[1].contains(" the file header is "));
    // Which slot of the facts says that it was closed was damaged.
    assert!(lines[2].starts_with("log: 1 entry in 1 key can be read; no damage; "), "{said}");
    let verified = run(home, &["verify", "log", "--json"]).json(OK);
    assert_eq!(verified["weakened"].as_array().unwrap().len(), 2, "{verified}");
}

#[test]
fn entries_of_a_segment_that_is_missing_do_not_count() {
    let home = home();
    let home = home.path();
    let left = lossy(home, "log", "middle").len();
    feed(home, &["append", "log", "sound"], b"x\n").gave(OK);
    let ran = run(home, &["ls", "log"]);
    let what = format!("keywal: k: {} entries cannot be read, the first at index ", 300 - left);
    assert!(ran.err.starts_with(&what), "{}", ran.err);
    let table = ran.gave(DAMAGE);
    let cells = |line: usize| table.lines().nth(line).unwrap().split_whitespace().nth(1).unwrap();
    assert_eq!((cells(1), cells(2)), (&*format!("{left}!"), "1"), "{table}");
    let row = &rows(&run(home, &["ls", "log", "--json"]).gave(DAMAGE))[0];
    assert_eq!((&row["entries"], &row["next_index"]), (&json!(left), &json!(300)));
    assert!(row["damage"].as_str().unwrap().contains("segments are missing"), "{row}");
    let ran = run(home, &["stats", "log", "--json"]);
    assert!(ran.err.starts_with(&what), "{}", ran.err);
    assert_eq!(ran.json(DAMAGE)["entries"], json!(left + 1));
    assert_eq!(run(home, &["verify", "log", "--json"]).json(DAMAGE)["entries"], json!(left + 1));

    // Of a key that is copied as it is, nobody has counted what can be read.
    let ran = run(home, &["ls", "log", "k", "--json"]);
    assert!(ran.err.starts_with(&what), "{}", ran.err);
    let segments = rows(&ran.gave(DAMAGE));
    fs::write(home.join(segments.last().unwrap()["path"].as_str().unwrap()), "").unwrap();
    let ran = run(home, &["restore", "log", "copy"]);
    assert!(ran.err.contains("copied as it is and not counted"), "{}", ran.err);
    assert!(ran.gave(DAMAGE).starts_with("copy: 1 entry in 1 key;"));
    let verified = run(home, &["verify", "copy", "--json"]).json(DAMAGE);
    assert!(verified["entries"].as_u64() > Some(1), "{verified}");
}

fn newest(home: &Path, key: &str) -> PathBuf {
    let segments = rows(&run(home, &["ls", "log", key, "--json"]).gave(OK));
    let path = segments.last().unwrap()["path"].as_str().unwrap();
    Path::new(path).file_name().unwrap().into()
}

/// Not a test of its own: writes to 1,000 keys until it is killed, and says what it has written.
#[test]
fn writer() {
    let Some(dir) = child::started_as("writer") else { return };
    let wal = Wal::new(dir, WalOptions::default().journal_bytes(4 << 20)).unwrap();
    for round in 0.. {
        for key in 0..1_000 {
            wal.append_entry(format!("key {key}"), None, format!("{round}"), false).unwrap();
        }
        println!("\nround {round}");
    }
}

#[test]
fn a_thousand_keys_killed_while_being_written_are_all_there() {
    let home = home();
    let dir = home.path().join("log");
    let mut child = child::command("writer", &dir).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let round = lines.filter(|line| line.starts_with("round ")).nth(2).unwrap();
    assert_eq!(round, "round 2");
    let home = home.path();
    for args in [&["append", "log", "k"][..], &["repair", "log"], &["snapshot", "log", "copy"]] {
        assert!(run(home, args).said(LOCKED).contains("already open"));
    }
    // Reading needs no lock.
    let beside = rows(&run(home, &["ls", "log", "--json"]).gave(OK));
    assert!(beside.len() == 1_000 && beside.iter().all(|row| row["entries"].as_u64() >= Some(3)));
    assert_eq!(run(home, &["get", "log", "key 999", "2"]).gave(OK), "2\n");
    run(home, &["verify", "log"]).gave(OK);
    child.kill().unwrap();
    child.wait().unwrap();

    // Nor does it change what the dead left.
    let left = files(&home.join("log"));
    let listed = rows(&run(home, &["ls", "log", "--json"]).gave(OK));
    assert_eq!(listed.len(), 1_000);
    assert!(listed.iter().all(|row| row["entries"].as_u64().unwrap() >= 3));
    let entries: u64 = listed.iter().map(|row| row["entries"].as_u64().unwrap()).sum();
    let verified = run(home, &["verify", "log", "--json"]).json(OK);
    assert_eq!(verified["entries"], json!(entries));
    let exported = run(home, &["export", "log"]).gave(OK);
    let stats = run(home, &["stats", "log", "--json"]).json(OK);
    assert_eq!((&stats["entries"], &stats["closed_cleanly"]), (&json!(entries), &json!(false)));
    assert!(files(&home.join("log")) == left);
    fs::write(home.join("lines"), &exported).unwrap();
    run(home, &["import", "copy", "lines"]).gave(OK);
    assert_eq!(payloads(&run(home, &["export", "copy"]).gave(OK)), payloads(&exported));
    let after = feed(home, &["append", "log", "key 0", "--json"], b"after\n").json(OK);
    assert_eq!(after["entries"], json!(1));
    assert_eq!(run(home, &["tail", "log", "key 0", "-n1"]).gave(OK), "after\n");
}

#[test]
fn a_key_is_followed_while_it_is_written() {
    let home = home();
    let dir = home.path().join("log");
    let wal = Wal::new(&dir, WalOptions::default().journal_bytes(1 << 20)).unwrap();
    for n in 0..20 {
        wal.append_entry("k", None, format!("{n}"), false).unwrap();
    }
    let tail = |key: &str| {
        let mut command = program();
        command.args(["tail", "-f", "-n2", "log", key]).current_dir(home.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        (child, lines, said)
    };
    let (mut child, mut lines, _said) = tail("k");
    let (mut other, mut of_other, mut said_of_other) = tail("not yet");
    assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["18", "19"]);
    for n in 20..30 {
        wal.append_entry("k", None, format!("{n}"), false).unwrap();
        assert_eq!(lines.next().unwrap(), format!("{n}"));
    }
    wal.append_entry("not yet", None, "now", false).unwrap();
    assert_eq!(of_other.next().unwrap(), "now");
    // If its key is removed, what comes is that of the next life.
    wal.remove_key("not yet").unwrap();
    assert!(said_of_other.next().unwrap().contains("not yet was removed"));
    wal.append_entry("not yet", None, "again", false).unwrap();
    assert_eq!(of_other.next().unwrap(), "again");
    for child in [&mut child, &mut other] {
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_snapshot_is_a_log_and_is_brought_up_to_date() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "k"], b"one\n").gave(OK);
    let report = run(home, &["snapshot", "log", "copy", "--json"]).json(OK);
    assert_eq!((&report["keys"], &report["entries"]), (&json!(1), &json!(1)));
    assert_eq!(run(home, &["cat", "copy", "k"]).gave(OK), "one\n");
    feed(home, &["append", "log", "k"], b"two\n").gave(OK);
    feed(home, &["append", "log", "j"], b"x\n").gave(OK);
    assert!(
        run(home, &["snapshot", "log", "copy"]).gave(OK).starts_with("copy: 3 entries in 2 keys")
    );
    assert_eq!(run(home, &["export", "copy"]).gave(OK), run(home, &["export", "log"]).gave(OK));

    // Restored as a whole, or as it was before the second append.
    run(home, &["restore", "copy", "whole"]).gave(OK);
    assert_eq!(run(home, &["export", "whole"]).gave(OK), run(home, &["export", "log"]).gave(OK));
    let first = run(home, &["get", "log", "k", "0", "--json"]).json(OK);
    let until = first["time"].as_str().unwrap();
    let report = run(home, &["restore", "copy", "back", "--until", until, "--json"]).json(OK);
    assert_eq!((&report["keys"], &report["entries"]), (&json!(1), &json!(1)));
    assert_eq!(run(home, &["cat", "back", "k"]).gave(OK), "one\n");
    // Of a moment before all of them, that it has nothing is said.
    for (until, nothing) in [("1h", true), (until, false)] {
        let said = run(home, &["restore", "copy", "early", "--until", until]).said(OK);
        assert_eq!(said.starts_with("keywal: nothing was appended before "), nothing, "{said}");
        assert_eq!(run(home, &["ls", "early", "--json"]).gave(OK).is_empty(), nothing);
        fs::remove_dir_all(home.join("early")).unwrap();
    }
    assert!(run(home, &["restore", "copy", "back"]).said(ERROR).contains("not empty"));
    run(home, &["restore", "missing", "new"]).said(ERROR);
    assert!(!home.join("new").exists());

    fs::create_dir(home.join("other")).unwrap();
    fs::write(home.join("other/mine"), "mine").unwrap();
    let said = run(home, &["snapshot", "log", "other"]).said(ERROR);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(fs::read(home.join("other/mine")).unwrap(), b"mine");
    run(home, &["snapshot", "missing", "third"]).said(ERROR);
    assert!(!home.join("third").exists());
}

#[test]
fn what_is_dropped_is_what_is_asked_for() {
    let home = home();
    let home = home.path();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let wal = Wal::new(home.join("log"), WalOptions::default().clock(clock)).unwrap();
    wal.append_entry("old", None, "entry", true).unwrap();
    wal.shutdown().unwrap();
    feed(home, &["append", "log", "new"], b"entry\n").gave(OK);
    let entry = run(home, &["get", "log", "old", "0", "--json"]).json(OK);

    let kept = run(home, &["compact", "log", "--retention", "1000w", "--json"]).json(OK);
    assert_eq!(kept["dropped_segments"], json!(0));
    let report = run(home, &["compact", "log", "--retention", "7d", "--json"]).json(OK);
    assert_eq!((&report["dropped_segments"], &report["dropped_entries"]), (&json!(1), &json!(1)));
    assert_eq!(run(home, &["cat", "log", "old"]).gave(OK), "");
    let said = run(home, &["get", "log", "--ref", entry["ref"].as_str().unwrap()]).said(ERROR);
    assert!(said.contains("its entry was dropped or lost, or was never here"), "{said}");
    assert_eq!(run(home, &["cat", "log", "new"]).gave(OK), "entry\n");

    run(home, &["remove", "log", "new", "--yes"]).gave(OK);
    assert!(run(home, &["cat", "log", "new"]).said(ERROR).contains("no key new"));
    fs::write(home.join("log/mine"), "mine").unwrap();
    run(home, &["destroy", "log", "--yes"]).gave(OK);
    let left: Vec<_> =
        fs::read_dir(home.join("log")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"]);
}

#[test]
fn a_retention_is_shown_set_and_taken_back() {
    let home = home();
    let home = home.path();
    feed(home, &["append", "log", "k"], b"x\n").gave(OK);
    let retention = |args: &[&str]| run(home, &[&["retention", "log", "k"], args].concat());
    assert_eq!(retention(&[]).gave(OK), "k: none of its own\n");
    let hour = Duration::from_secs(60 * 60);
    for (args, shown, is) in [
        (&["--max-age", "7d"][..], "7d", Retention::keep_for(hour * 24 * 7)),
        (&["--keep-last", "3"], "last 3", Retention::keep_last(3)),
        (
            &["--max-entries", "9", "--max-bytes", "1000", "--min-entries", "2"],
            "9 entries, 1000 bytes, at least 2 entries",
            Retention::FOREVER.max_entries(9).max_bytes(1000).min_entries(2),
        ),
        (
            &["--keep-last", "1", "--max-age", "1h"],
            "1h, last 1",
            Retention::keep_last(1).max_age(hour),
        ),
        (&["--forever"], "forever", Retention::FOREVER),
    ] {
        assert_eq!(retention(args).gave(OK), format!("k: {shown}\n"));
        assert_eq!(retention(&[]).gave(OK), format!("k: {shown}\n"));
        let log = WalReader::open(home.join("log")).unwrap();
        assert_eq!(log.retention("k").unwrap(), Some(is));
    }
    assert_eq!(retention(&["--json"]).json(OK), json!({"key": "k", "retention": {}}));
    let listed = run(home, &["ls", "log"]).gave(OK);
    assert!(listed.ends_with(" forever   k\n"), "{listed}");
    let row = run(home, &["ls", "log", "--json"]).json(OK);
    assert_eq!(row["retention"], json!({}));
    assert_eq!(run(home, &["stats", "log", "--json"]).json(OK)["keys_with_retention"], json!(1));

    // Nothing is changed by what is refused.
    for args in [
        &["--max-entries", "0"][..],
        &["--max-age", "1ms"],
        &["--min-entries", "1"],
        &["--keep-last", "1", "--max-entries", "2"],
        &["--forever", "--max-age", "1h"],
        &["--none", "--forever"],
        &["--create"],
    ] {
        retention(args).said(USAGE);
    }
    let new = |args: &[&str]| run(home, &[&["retention", "log", "new"], args].concat());
    for args in [&[][..], &["--forever"]] {
        assert!(new(args).said(ERROR).contains("there is no key new"));
    }
    run(home, &["retention", "missing", "k", "--forever"]).said(ERROR);
    assert!(!home.join("missing").exists());
    let wal = Wal::new(home.join("log"), WalOptions::default()).unwrap();
    assert_eq!(retention(&[]).gave(OK), "k: forever\n");
    retention(&["--none"]).said(LOCKED);
    wal.shutdown().unwrap();
    assert_eq!(rows(&run(home, &["ls", "log", "--json"]).gave(OK)), [row]);

    assert_eq!(new(&["--keep-last", "1", "--create"]).gave(OK), "new: last 1\n");
    assert_eq!(retention(&["--none"]).gave(OK), "k: none of its own\n");
    assert_eq!(run(home, &["cat", "log", "k"]).gave(OK), "x\n");
    feed(home, &["append", "log", "end"], b"one\ntwo\n").gave(OK);
    damage(&segment(&home.join("log"), "end"), 32 + 35, 32 + 35);
    let said = run(home, &["retention", "log", "end", "--forever"]).said(DAMAGE);
    assert!(said.contains("nothing was changed") && said.contains("keywal repair"), "{said}");
}

#[test]
fn what_a_key_has_of_its_own_is_exported_and_imported() {
    let home = home();
    let home = home.path();
    let wal = Wal::new(home.join("log"), WalOptions::default()).unwrap();
    let hour = Duration::from_secs(60 * 60);
    let own = [
        (
            "a",
            KeyOptions::default().retention(Retention::keep_for(hour).max_bytes(9).min_entries(1)),
        ),
        ("b", KeyOptions::default().metadata("schema=4")),
        ("c", KeyOptions::default().metadata(&b"\xff\x00"[..]).retention(Retention::FOREVER)),
        ("plain", KeyOptions::default()),
    ];
    for (key, own) in &own {
        wal.create_key(key, own.clone()).unwrap();
        // `c` stays empty.
        for n in 0..if *key == "c" { 0 } else { 3 } {
            wal.append_entry(key, None, format!("{n}"), false).unwrap();
        }
    }
    wal.shutdown().unwrap();
    let exported = run(home, &["export", "log"]).gave(OK);
    let lines = rows(&exported);
    assert_eq!(
        lines[0],
        json!({"key": "a", "retention": {"max_age_ms": 3_600_000, "max_bytes": 9, "min_entries": 1}})
    );
    assert_eq!(lines.len(), 3 + 9);
    fs::write(home.join("lines"), &exported).unwrap();
    let done = run(home, &["import", "copy", "lines", "--json"]).json(OK);
    assert_eq!((&done["keys"], &done["entries"]), (&json!(4), &json!(9)));
    feed(home, &["import", "piped"], exported.as_bytes()).gave(OK);
    for copy in ["copy", "piped"] {
        let copied = WalReader::open(home.join(copy)).unwrap();
        for (key, own) in &own {
            assert_eq!(copied.retention(key).unwrap(), own.retention, "{key}");
            assert_eq!(copied.key_metadata(key).unwrap(), Some(own.metadata.clone()), "{key}");
        }
    }

    // Again, to the same keys; then to one that has something else.
    run(home, &["import", "copy", "lines", "--append"]).gave(OK);
    assert_eq!(run(home, &["cat", "copy", "a"]).gave(OK), "0\n1\n2\n0\n1\n2\n");
    run(home, &["retention", "copy", "a", "--forever"]).gave(OK);
    let before = run(home, &["export", "copy"]).gave(OK);
    let said = run(home, &["import", "copy", "lines", "--append"]).said(ERROR);
    assert!(said.contains("nothing was imported: a exists with another retention"), "{said}");
    assert!(said.contains("(forever, not 1h, 9 bytes, at least 1 entry)"), "{said}");
    let other = br#"{"key":"b","metadata":"schema=5"}"#;
    let said = feed(home, &["import", "copy", "--append"], other).said(ERROR);
    assert!(said.contains("b exists with other metadata"), "{said}");
    assert_eq!(run(home, &["export", "copy"]).gave(OK), before);

    let entry = r#"{"key":"k","content":"x"}"#;
    for (line, what) in [
        (
            r#"{"key":"k","retention":{}}"#,
            "line 2: what k has of its own has to come once, and before",
        ),
        (
            r#"{"key":"j","retention":{"max_entries":0}}"#,
            "line 2: invalid options: max_entries is 0",
        ),
        (r#"{"key":"j","retention":{"max_age_ms":1}}"#, "line 2: invalid options: max_age of 1 ms"),
        (r#"{"key":"j","retention":{"forever":true}}"#, "line 2: unknown field `forever`"),
    ] {
        fs::write(home.join("bad"), format!("{entry}\n{line}\n")).unwrap();
        let said = run(home, &["import", "bad log", "bad"]).said(ERROR);
        assert!(said.contains("nothing was imported: ") && said.contains(what), "{said}");
        assert!(!home.join("bad log").exists());
    }
    let long = json!({"key": "j", "metadata": "m".repeat(70_000)}).to_string();
    let said = feed(home, &["import", "bad log"], long.as_bytes()).said(ERROR);
    assert!(said.contains("line 1: the metadata has 70000 bytes"), "{said}");
}

/// Starts an import with these arguments, and kills it when it has imported at least so many entries of
/// the lines; it never gets the others.
fn import_and_kill(home: &Path, args: &[&str], lines: &str, entries: u64) {
    let mut command = program();
    command.args(args).current_dir(home).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    let imported = || {
        let log = WalReader::open(home.join("log")).ok()?;
        let keys = log.enumerate_keys().ok()?;
        keys.map(|key| log.next_index(&key)).sum::<Result<u64, _>>().ok()
    };
    while imported().is_none_or(|imported| imported < entries) {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_import_that_is_killed_is_gone_on_with_and_has_each_entry_once() {
    let home = home();
    let home = home.path();
    // Keys in turn, contents that come again, and a line of a key's own.
    let mut lines =
        vec![json!({"key": "key 1", "retention": {"max_entries": 1_000_000}}).to_string()];
    lines.extend((0..6_000).map(|n| {
        json!({"key": format!("key {}", n % 7), "header": "h", "content": format!("{}", n / 70)}).to_string()
    }));
    let all = lines.join("\n") + "\n";
    fs::write(home.join("lines"), &all).unwrap();
    import_and_kill(home, &["import", "log"], &lines[..2_000].join("\n"), 1_000);

    let said = run(home, &["import", "log", "lines"]).said(ERROR);
    assert!(said.contains("nothing was imported") && said.contains("--resume"), "{said}");
    import_and_kill(home, &["import", "log", "--resume"], &lines[..4_000].join("\n"), 3_000);
    let there: u64 = rows(&run(home, &["ls", "log", "--json"]).gave(OK))
        .iter()
        .map(|row| row["entries"].as_u64().unwrap())
        .sum();
    assert!((3_000..4_000).contains(&there), "{there}");

    // Of another import, nothing is appended.
    let other = all.replace("\"content\":\"0\"", "\"content\":\"other\"");
    let said = feed(home, &["import", "log", "--resume"], other.as_bytes()).said(ERROR);
    assert!(said.contains("entry 0 of key 0 is not the one that is to be imported"), "{said}");
    run(home, &["import", "log", "lines", "--resume", "--append"]).said(USAGE);

    let done = run(home, &["import", "log", "lines", "--resume", "--json"]).json(OK);
    assert_eq!((&done["found_entries"], &done["entries"]), (&json!(there), &json!(6_000 - there)));
    run(home, &["import", "whole", "lines"]).gave(OK);
    let exported = |log| payloads(&run(home, &["export", log]).gave(OK));
    assert!(exported("log") == exported("whole"));
    let said = run(home, &["import", "log", "lines", "--resume"]).gave(OK);
    assert!(
        said.starts_with(
            "log: 0 entries imported to 7 keys\nlog: 6000 entries were there already\n"
        ),
        "{said}"
    );
    assert!(exported("log") == exported("whole"));
}

fn nano_wal_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nano-wal-0.4")
}

#[test]
fn files_of_nano_wal_are_imported_with_all_they_hold() {
    let home = home();
    let home = home.path();
    let source = nano_wal_files();
    let source = source.to_str().unwrap();
    let done = run(home, &["import", "log", "--from-nano-wal", source, "--json"]).json(OK);
    assert_eq!((&done["keys"], &done["entries"]), (&json!(5), &json!(16)));
    let wal = Wal::new(home.join("log"), WalOptions::default()).unwrap();
    let entries = |key: &[u8]| -> Vec<(Option<Bytes>, Bytes)> {
        let entries = wal.entries(key).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.header, entry.content)).collect()
    };
    let entry = |header: Option<&'static str>, content: &'static str| {
        (header.map(Bytes::from), Bytes::from(content))
    };
    let hits = entries(b"hits");
    assert_eq!(hits.len(), 9);
    assert_eq!(hits[3..5], [entry(None, "hit 1.0"), entry(Some("run=1"), "hit 1.1")]);
    // nano-wal reads nothing behind an entry that it refused; it is there all the same.
    let orders = entries(b"user:123/orders, a long name");
    let behind = [entry(None, "behind"), entry(Some("h"), "further behind")];
    assert_eq!(orders, [&[entry(None, "{\"order_id\": 12345}")], &behind[..]].concat());
    let binary = (Some(Bytes::from_static(b"\x00\xfe")), Bytes::from_static(b"\x00\xffNANORC"));
    assert_eq!(entries(b"bin\xff\n"), [binary, entry(None, "")]);
    assert_eq!(entries(b""), [entry(None, "of the empty key")]);
    assert_eq!(entries(b"topic-partition-0001"), [entry(None, "hyphens")]);
    wal.shutdown().unwrap();

    let said = run(home, &["import", "log", "--from-nano-wal", source]).said(ERROR);
    assert!(said.contains("nothing was imported") && said.contains("--append"), "{said}");
    run(home, &["import", "log", "--from-nano-wal", source, "--append"]).gave(OK);
    assert_eq!(run(home, &["stats", "log", "--json"]).json(OK)["entries"], json!(32));
    run(home, &["import", "copy", "--from-nano-wal", source]).gave(OK);
    let args = ["import", "copy", "--from-nano-wal", source, "--resume", "--json"];
    let done = run(home, &args).json(OK);
    assert_eq!((&done["found_entries"], &done["entries"]), (&json!(16), &json!(0)));
}

#[test]
fn of_damaged_files_of_nano_wal_all_that_can_be_read_is_imported() {
    let home = home();
    let home = home.path();
    let source = home.join("nano");
    fs::create_dir(&source).unwrap();
    for file in fs::read_dir(nano_wal_files()).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
    }
    let hits = |n: u32| source.join(format!("hits-10105088942366258826-000{n}.log"));
    // Cut off in an entry; a length that is not to be believed; no header; a link; a name only.
    let torn = fs::read(hits(1)).unwrap();
    fs::write(hits(1), &torn[..torn.len() - 3]).unwrap();
    let mut long = fs::read(hits(2)).unwrap();
    long[36 + 8..36 + 16].fill(0xFF);
    fs::write(hits(2), long).unwrap();
    fs::write(source.join("zeros-1-0001.log"), [0; 100]).unwrap();
    fs::write(source.join("short-1-0001.log"), b"NANO-LOG").unwrap();
    let mut key = b"NANO-LOG".to_vec();
    key.extend([0; 16]);
    key.extend([0xFF; 8]);
    fs::write(source.join("key-1-0001.log"), key).unwrap();
    std::os::unix::fs::symlink(hits(3), source.join("link-1-0001.log")).unwrap();
    fs::write(source.join("notes.log"), "none of nano-wal's").unwrap();

    let ran = run(home, &["import", "log", "--from-nano-wal", "nano", "--json"]);
    let said = ran.err.clone();
    let done = ran.json(DAMAGE);
    assert_eq!((&done["entries"], &done["unreadable"]), (&json!(16 - 1 - 3), &json!(6)));
    for what in [
        "hits-10105088942366258826-0001.log: no whole entry at offset 87: 20 bytes",
        "hits-10105088942366258826-0002.log: no whole entry at offset 36: 74 bytes",
        "zeros-1-0001.log: not a segment of nano-wal",
        "short-1-0001.log: too short",
        "key-1-0001.log: the header is cut off",
        "link-1-0001.log: not a regular file",
    ] {
        assert!(said.contains(what), "{what}\n{said}");
    }
    assert!(!said.contains("notes.log"), "{said}");
    assert_eq!(
        run(home, &["cat", "log", "hits"]).gave(OK),
        "hit 0.0\nhit 0.1\nhit 2.0\nhit 2.1\nhit 2.2\n"
    );
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let home = home();
    let home = home.path();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(home, &["completions", shell]).gave(OK);
        assert!(script.contains("verify") && script.contains("from-nano-wal"), "{shell}");
    }
    assert!(run(home, &["man"]).gave(OK).contains(".TH keywal 1"));
    run(home, &["man", "."]).gave(OK);
    let mut page = String::new();
    fs::File::open(home.join("keywal-import.1")).unwrap().read_to_string(&mut page).unwrap();
    assert!(page.contains("nano"), "{page}");
}
