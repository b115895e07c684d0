//! Every picked subject through every picked workload, round by round.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use crate::child::{self, Answer, Task};
use crate::options::Options;
use crate::stats::Spread;
use crate::subjects::SUBJECTS;
use crate::table;
use crate::workloads::{Group, Step};

/// What one subject made of one workload, round by round. The first answer that is no figure is the
/// last: it would be the same again.
#[derive(Default)]
pub struct Figures(pub Vec<Answer>);

impl Figures {
    /// The figures of the rounds in which both have one.
    pub fn ratio(&self, to: &Self) -> Option<Spread> {
        let both = self.0.iter().zip(&to.0).filter_map(|answers| match answers {
            (Answer::Nanos(a), Answer::Nanos(b)) => Some(a / b),
            _ => None,
        });
        Spread::of(both.collect())
    }

    pub fn spread(&self) -> Option<Spread> {
        let nanos = |answer: &Answer| match answer {
            Answer::Nanos(nanos) => Some(*nanos),
            _ => None,
        };
        if self.reason().is_some() {
            return None;
        }
        Spread::of(self.0.iter().filter_map(nanos).collect())
    }

    /// Why there is no figure.
    pub fn reason(&self) -> Option<&Answer> {
        self.0.last().filter(|answer| !matches!(answer, Answer::Nanos(_)))
    }
}

/// The figures of one workload, by subject.
pub struct Column {
    pub workload: usize,
    pub figures: Vec<Figures>,
}

/// Returns how many measurements failed, which a test must not.
pub fn run(options: &Options) -> Result<usize, Box<dyn Error>> {
    let parent = match std::env::var_os("KEYWAL_BENCH_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe()?.with_file_name("peers-data"),
    };
    fs::create_dir_all(&parent)?;
    let root = tempfile::tempdir_in(parent)?;
    table::print_head(options, root.path());
    let mut failed = BTreeSet::new();
    for group in Group::ALL {
        let is_in = |at: &&usize| options.workloads[**at].group == group;
        let mut columns = Vec::new();
        for workload in options.picked_workloads.iter().filter(is_in) {
            eprintln!("{}: {}", group.title(), options.workloads[*workload].name);
            columns.push(column(options, *workload, root.path())?);
        }
        if !columns.is_empty() {
            failed.append(&mut table::print(options, group, &columns));
        }
    }
    Ok(if options.test { failed.len() } else { 0 })
}

fn column(options: &Options, workload: usize, root: &Path) -> Result<Column, Box<dyn Error>> {
    let mut figures: Vec<Figures> = SUBJECTS.iter().map(|_| Figures::default()).collect();
    let keeps_directory = options.workloads[workload].has_preparation();
    let dir = |subject: usize| root.join(subject.to_string());
    for round in 0..options.rounds {
        let mut order = options.picked_subjects.clone();
        let n = order.len();
        order.rotate_left(round % n);
        for subject in order {
            let (dir, found) = (dir(subject), &mut figures[subject]);
            if found.reason().is_some() {
                continue;
            }
            let task = |step| Task { tiny: options.test, workload, subject, step };
            if keeps_directory && round == 0 {
                let prepared = child::measure(&task(Step::Prepare), &dir)?;
                if !matches!(prepared, Answer::Nanos(_)) {
                    found.0.push(prepared);
                    continue;
                }
            }
            found.0.push(child::measure(&task(Step::Measure), &dir)?);
            if !keeps_directory {
                fs::remove_dir_all(&dir)?;
            }
        }
    }
    for dir in options.picked_subjects.iter().map(|subject| dir(*subject)) {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(Column { workload, figures })
}
