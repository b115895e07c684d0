//! What was asked for on the command line?

use crate::subjects::SUBJECTS;
use crate::workloads::{self, Workload};

pub struct Options {
    /// Everything once and small, to see that it works.
    pub test: bool,
    pub rounds: usize,
    pub workloads: Vec<Workload>,
    /// By their place in each list.
    pub picked_workloads: Vec<usize>,
    pub picked_subjects: Vec<usize>,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let (mut test, mut rounds, mut words) = (false, 5, Vec::new());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--test" => test = true,
                "--rounds" => {
                    let given = arguments.next().and_then(|n| n.parse().ok());
                    rounds = given.filter(|n| *n > 0).ok_or("--rounds takes a number from 1")?;
                }
                flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
                word => words.push(word),
            }
        }
        if test {
            rounds = 1;
        }
        let workloads = workloads::all(test);
        let workload_has = |word: &str, at: usize| {
            let workload: &Workload = &workloads[at];
            workload.name.contains(word) || workload.group.title().contains(word)
        };
        let subject_has = |word: &str, at: usize| SUBJECTS[at].name.contains(word);
        let picked_workloads = pick(&words, workloads.len(), workload_has);
        let picked_subjects = pick(&words, SUBJECTS.len(), subject_has);
        let is_known = |word: &&str| {
            (0..workloads.len()).any(|at| workload_has(word, at))
                || (0..SUBJECTS.len()).any(|at| subject_has(word, at))
        };
        if let Some(unknown) = words.iter().find(|word| !is_known(word)) {
            return Err(format!("no workload and no subject has {unknown:?} in its name"));
        }
        Ok(Self { test, rounds, workloads, picked_workloads, picked_subjects })
    }
}

/// Those whose name contains one of the words; all, if no word is about any of them.
fn pick(words: &[&str], n: usize, has: impl Fn(&str, usize) -> bool) -> Vec<usize> {
    let picked: Vec<usize> = (0..n).filter(|at| words.iter().any(|word| has(word, *at))).collect();
    if picked.is_empty() { (0..n).collect() } else { picked }
}
