//! Other processes: this test program again, to run one of its tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ROLE: &str = "KEYWAL_TEST_ROLE";
const DIR: &str = "KEYWAL_TEST_DIR";

/// This test program again, to run only the test `role`, with a pipe for what it prints.
pub fn command(role: &str, dir: &Path) -> Command {
    with_role(Command::new(std::env::current_exe().unwrap()), role, dir)
}

/// As [`command`], with a signal that the process ignores from its start.
pub fn ignoring(signal: &str, role: &str, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' {signal}; exec \"$0\" \"$@\""));
    shell.arg(std::env::current_exe().unwrap());
    with_role(shell, role, dir)
}

fn with_role(mut command: Command, role: &str, dir: &Path) -> Command {
    command
        .args(["--exact", role, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The directory to work in, if this process was started for `role`.
pub fn started_as(role: &str) -> Option<PathBuf> {
    (std::env::var(ROLE).ok()? == role).then(|| std::env::var_os(DIR).unwrap().into())
}
