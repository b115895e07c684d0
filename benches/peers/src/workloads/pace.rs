//! How long does a call take? Many in a row, in one thread or in several, and not for longer than a
//! moment: some subjects take ten thousand times as long as others.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::subject::{Failure, Result};

const AT_MOST: Duration = Duration::from_millis(500);
/// Calls between two looks at the clock.
const STRIDE: usize = 64;

/// Nanoseconds a call.
pub fn each(calls: usize, call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    let done = repeat(calls, call)?;
    Ok(nanos(started.elapsed()) / count(done))
}

/// Nanoseconds a call, all threads together. `start` makes, in its thread, what that thread calls.
pub fn each_in_threads<C: FnMut(usize) -> Result<()>>(
    threads: usize,
    calls: usize,
    start: impl Fn(usize) -> Result<C> + Sync,
) -> Result<f64> {
    if threads == 1 {
        return each(calls, start(0)?);
    }
    let barrier = Barrier::new(threads);
    let work = |thread| {
        let call = start(thread);
        barrier.wait();
        let started = Instant::now();
        Ok((started, repeat(calls, call?)?, Instant::now()))
    };
    let results: Vec<Result<_>> = thread::scope(|scope| {
        let work = &work;
        let spawned: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        let panicked = |_| Err(Failure::Failed("a thread panicked".into()));
        spawned.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    let started = results.iter().map(|(started, ..)| *started).min();
    let ended = results.iter().map(|(.., ended)| *ended).max();
    let elapsed = started.zip(ended).map(|(started, ended)| ended - started);
    let done = results.iter().map(|(_, done, _)| done).sum();
    Ok(nanos(elapsed.unwrap_or_default()) / count(done))
}

/// How many calls there was time for.
fn repeat(calls: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<usize> {
    let started = Instant::now();
    for i in 0..calls {
        if i % STRIDE == STRIDE - 1 && started.elapsed() > AT_MOST {
            return Ok(i);
        }
        call(i)?;
    }
    Ok(calls)
}

pub fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// A number to divide by.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn count(n: usize) -> f64 {
    n as f64
}
