//! One measurement in a process of its own: how it is started, and how it answers.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::subject::Failure;
use crate::subjects::SUBJECTS;
use crate::workloads::{self, Step};

const CHILD: &str = "--child";
const AT_MOST: Duration = Duration::from_secs(90);

/// What a process was to do.
pub struct Task {
    pub tiny: bool,
    pub workload: usize,
    pub subject: usize,
    pub step: Step,
}

/// What became of it.
#[derive(Clone, PartialEq)]
pub enum Answer {
    Nanos(f64),
    Lacks(String),
    Fails(String),
}

pub fn is_child(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|first| first == CHILD)
}

/// Does what [`measure`] asked for.
pub fn main(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [_, size, workload, subject, step, dir, answer] = arguments else {
        return Err("not called by this program".into());
    };
    let workloads = workloads::all(size == "tiny");
    let workload = workloads.get(workload.parse::<usize>()?).ok_or("no such workload")?;
    let subject = SUBJECTS.get(subject.parse::<usize>()?).ok_or("no such subject")?;
    let step = if step == "prepare" { Step::Prepare } else { Step::Measure };
    let text = match (subject.run)(workload, step, Path::new(dir)) {
        Ok(nanos) => format!("nanos {nanos}"),
        Err(Failure::Lacks(reason)) => format!("lacks {reason}"),
        Err(Failure::Failed(reason)) => format!("fails {reason}"),
    };
    fs::write(answer, text)?;
    // What is dropped only now was not measured and need not end well.
    std::process::exit(0)
}

/// Runs the task in `dir/data`, which it creates if need be.
pub fn measure(task: &Task, dir: &Path) -> Result<Answer, Box<dyn Error>> {
    let (data, answer, errors) = (dir.join("data"), dir.join("answer"), dir.join("errors"));
    fs::create_dir_all(&data)?;
    let child = Command::new(std::env::current_exe()?)
        .args([CHILD, if task.tiny { "tiny" } else { "full" }])
        .args([task.workload.to_string(), task.subject.to_string()])
        .arg(if task.step == Step::Prepare { "prepare" } else { "measure" })
        .args([&data, &answer])
        // walrus-rust has no other way to be told.
        .env("WALRUS_DATA_DIR", &data)
        .env("WALRUS_QUIET", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let Some(ended) = wait(child)? else {
        return Ok(Answer::Fails(format!("not done after {} s", AT_MOST.as_secs())));
    };
    if !ended {
        let text = String::from_utf8_lossy(&fs::read(&errors)?).into_owned();
        return Ok(Answer::Fails(last_words(&text)));
    }
    let text = fs::read_to_string(&answer)?;
    fs::remove_file(&answer)?;
    Ok(match text.split_once(' ') {
        Some(("nanos", nanos)) => Answer::Nanos(nanos.parse()?),
        Some(("lacks", reason)) => Answer::Lacks(reason.to_owned()),
        Some((_, reason)) => Answer::Fails(reason.to_owned()),
        None => Answer::Fails("no answer".to_owned()),
    })
}

/// Whether it ended well, if it ended in time.
fn wait(mut child: Child) -> Result<Option<bool>, Box<dyn Error>> {
    let until = Instant::now() + AT_MOST;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Why a process ended badly: what it panicked with.
fn last_words(errors: &str) -> String {
    let mut lines = errors.lines().skip_while(|line| !line.contains("panicked at"));
    let reason = lines.nth(1).or_else(|| errors.lines().last()).unwrap_or("ended without a word");
    format!("panics: {reason}")
}
