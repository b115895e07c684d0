//! How is a run printed? Where it ran, and a table for each group: a row for each subject, and how keywal
//! relates to its floor and to the best peer that promises as much.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::child::Answer;
use crate::limits;
use crate::options::Options;
use crate::run::{Column, Figures};
use crate::stats::Spread;
use crate::subjects::{KEYWAL, SUBJECTS, is_peer};
use crate::workloads::Group;

pub fn print_head(options: &Options, dir: &Path) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let cpu = cpu.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown CPU");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} on {} x {cpu}, {}, {}; {}; commit {}; load {}, {} descriptors; {} rounds{}",
        output("df", &["--output=fstype", &dir.to_string_lossy()]),
        thread::available_parallelism().map_or(0, usize::from),
        output("uname", &["-sr"]),
        output("rustc", &["--version"]),
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        output("git", &["describe", "--always", "--dirty"]),
        load.split(' ').next().unwrap_or_default(),
        limits::spare_descriptors(),
        options.rounds,
        if options.test { "; a test run, the figures mean nothing" } else { "" },
    );
}

/// The last line that a command prints.
fn output(program: &str, arguments: &[&str]) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).args(arguments).current_dir(here).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().last().unwrap_or("unknown").trim().to_owned()
}

/// Returns what failed.
pub fn print(options: &Options, group: Group, columns: &[Column]) -> BTreeSet<String> {
    let names = columns.iter().map(|column| options.workloads[column.workload].name);
    println!("\n| {} | survives | {} |", group.title(), names.collect::<Vec<_>>().join(" | "));
    println!("|---|---|{}", "---:|".repeat(columns.len()));
    for subject in &options.picked_subjects {
        let figures: Vec<&Figures> = columns.iter().map(|it| &it.figures[*subject]).collect();
        if figures.iter().all(|it| matches!(it.reason(), Some(Answer::Lacks(_)))) {
            continue;
        }
        let cells = figures.iter().map(|figures| cell(figures, group));
        println!("| {} |", row(*subject, group, cells));
    }
    print_ratios(options, group, columns);
    let mut failed = BTreeSet::new();
    let mut reasons = BTreeSet::new();
    for column in columns {
        for subject in &options.picked_subjects {
            let (name, workload) = (SUBJECTS[*subject].name, &options.workloads[column.workload]);
            match column.figures[*subject].reason() {
                Some(Answer::Lacks(reason)) => {
                    reasons.insert(format!("- {name}: {reason}"));
                }
                Some(Answer::Fails(reason)) => {
                    failed.insert(format!("- {name} fails, {}: {reason}", workload.name));
                }
                _ => (),
            }
        }
    }
    println!();
    reasons.iter().chain(&failed).for_each(|reason| println!("{reason}"));
    failed
}

fn row(subject: usize, group: Group, cells: impl Iterator<Item = String>) -> String {
    let subject = &SUBJECTS[subject];
    let survives = match group {
        Group::Durable => "disk".to_owned(),
        _ => subject.survives.to_string(),
    };
    let reads = matches!(group, Group::Read | Group::Scan);
    let memory = if reads && subject.reads_from_memory { " (from memory)" } else { "" };
    format!("{}{memory} | {survives} | {}", subject.name, cells.collect::<Vec<_>>().join(" | "))
}

fn cell(figures: &Figures, group: Group) -> String {
    match (figures.spread(), figures.reason()) {
        (Some(spread), _) => text(spread.divided_by(group.unit())),
        (None, Some(Answer::Fails(_))) => "fails".to_owned(),
        (None, _) => "-".to_owned(),
    }
}

fn print_ratios(options: &Options, group: Group, columns: &[Column]) {
    let position = |name| SUBJECTS.iter().position(|subject| subject.name == name);
    let Some(keywal) = position(KEYWAL) else { return };
    let (mut floors, mut peers) = (Vec::new(), Vec::new());
    for column in columns {
        let ratio = |to: Option<usize>| {
            let ratio = to.and_then(|to| {
                let ratio = column.figures[keywal].ratio(&column.figures[to])?;
                Some(format!("{} {}", text(ratio), SUBJECTS[to].name))
            });
            ratio.unwrap_or_else(|| "-".to_owned())
        };
        floors.push(ratio(position(options.workloads[column.workload].floor)));
        peers.push(ratio(best_peer(column, group, keywal)));
    }
    println!("| **keywal / floor** | | {} |", floors.join(" | "));
    println!("| **keywal / best peer of its kind** | | {} |", peers.join(" | "));
}

/// The fastest peer whose append survives at least what keywal's does, where that is what is measured, and
/// that reads files as keywal does, where that is.
fn best_peer(column: &Column, group: Group, keywal: usize) -> Option<usize> {
    let comparable = |subject: &usize| match group {
        Group::Append => SUBJECTS[*subject].survives >= SUBJECTS[keywal].survives,
        Group::Durable | Group::Reopen => true,
        Group::Read | Group::Scan => !SUBJECTS[*subject].reads_from_memory,
    };
    let median = |subject: usize| Some((column.figures[subject].spread()?.median, subject));
    let peers = (0..SUBJECTS.len()).filter(|subject| is_peer(*subject)).filter(comparable);
    let best = peers.filter_map(median).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, subject)| subject)
}

fn text(spread: Spread) -> String {
    if spread.low >= spread.high {
        return digits(spread.median);
    }
    format!("{} ({}-{})", digits(spread.median), digits(spread.low), digits(spread.high))
}

/// Three digits, or all in front of the point.
fn digits(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
