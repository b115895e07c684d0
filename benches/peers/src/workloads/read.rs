//! What does it cost to read one entry by its reference, in random order, from the page cache?

use super::{Workload, pace};
use crate::subject::{Failure, Plan, Result, Subject};

pub fn measure<S: Subject>(workload: &Workload, plan: &Plan) -> Result<f64> {
    let mut subject = S::open(plan)?;
    // Before all entries are written in vain.
    if let Err(lacks @ Failure::Lacks(_)) = subject.reader() {
        return Err(lacks);
    }
    let mut places = workload.fill(&mut subject)?;
    shuffle(&mut places);
    let (subject, places) = (&subject, &places);
    pace::each_in_threads(workload.threads, workload.calls, |thread| {
        let mut reader = subject.reader()?;
        let first = thread * places.len() / workload.threads;
        let mut read = move |i: usize| {
            let bytes = reader(places[(first + i) % places.len()])?;
            if bytes != workload.content_bytes {
                return Err(Failure::Failed(format!("an entry of {bytes} bytes")));
            }
            Ok(())
        };
        // Opens files and fills caches, in each thread.
        (0..workload.keys.max(1000)).try_for_each(&mut read)?;
        Ok(read)
    })
}

fn shuffle<T>(values: &mut [T]) {
    let mut state = 1_u64;
    for i in (1..values.len()).rev() {
        // A linear congruential generator of 64 bits, of which the upper ones are good enough.
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let other = usize::try_from(state >> 33).unwrap_or(0) % (i + 1);
        values.swap(i, other);
    }
}
