//! Where do old entries go? Before `compact` drops a segment, a hook compresses it and puts it into an archive (a
//! directory here, in place of an object store). Later everything is read from there, as from any log, and what is
//! still in the log itself comes behind it.
//!
//! ```text
//! cargo run --release --example archive
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use keywal::{DueSegment, Entry, ManualClock, Verdict, Wal, WalOptions, WalReader};

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SENSORS: [&str; 2] = ["cellar", "roof"];

fn main() -> Result {
    let home = tempfile::tempdir()?;
    let (archive, unpacked) = (home.path().join("archive"), home.path().join("unpacked"));
    fs::create_dir(&archive)?;
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let store = archive.clone();
    let options = WalOptions::with_retention(DAY)
        .segments_per_retention_period(4)
        .clock(clock.clone())
        .before_drop(move |segment| Ok(put(segment, &store)?));
    let wal = Wal::new(home.path().join("log"), options)?;

    let mut dropped = 0;
    for minute in 0..7 * 24 * 60 {
        for sensor in SENSORS {
            wal.append_entry(sensor, None, reading(sensor, minute), false)?;
        }
        clock.advance(Duration::from_secs(60));
        if minute % 60 == 59 {
            let report = wal.compact()?;
            assert!(report.failures.is_empty() && report.held_segments == 0, "{report:?}");
            dropped += report.dropped_bytes;
        }
    }
    let kept = SENSORS.map(|sensor| wal.first_index(sensor));
    println!("the log has the readings from {kept:?} on, {dropped} bytes were dropped");

    let packed = total(&archive)?;
    println!("the archive has them in {packed} bytes, one in {}", dropped / packed.max(1));
    assert!(packed > 0 && packed * 2 < dropped);

    unpack(&archive, &unpacked)?;
    let old = WalReader::open(&unpacked)?;
    for sensor in SENSORS {
        let first = wal.first_index(sensor)?;
        let archived = old.entries(sensor)?.take_while(|entry| before(entry, first));
        let mut minutes = 0;
        for (minute, entry) in archived.chain(wal.entries(sensor)?).enumerate() {
            let entry = entry?;
            assert_eq!(
                (entry.index, &entry.content[..]),
                (minute as u64, reading(sensor, minute).as_bytes())
            );
            minutes += 1;
        }
        assert_eq!(minutes, 7 * 24 * 60);
        println!(
            "{sensor}: {first} readings from the archive and {} from the log",
            minutes - first
        );
    }
    Ok(())
}

/// Compresses a segment into the archive. It goes once it is safe there; an error keeps it in the log.
fn put(segment: &DueSegment<'_>, archive: &Path) -> io::Result<Verdict> {
    let name =
        segment.path.file_name().ok_or_else(|| io::Error::other("a segment without a name"))?;
    let path = archive.join(name).with_extension("log.gz");
    let mut gz = GzEncoder::new(File::create(&path)?, Compression::default());
    let written = segment.copy_to(&mut gz)?;
    gz.finish()?.sync_all()?;
    // Whoever deletes the original has read the copy first.
    let mut copy = GzDecoder::new(File::open(&path)?);
    let mut read = flate2::CrcWriter::new(io::sink());
    io::copy(&mut copy, &mut read)?;
    if read.crc().sum() != written {
        return Err(io::Error::other("the archive has something else than what was written to it"));
    }
    Ok(Verdict::Drop)
}

fn unpack(archive: &Path, to: &Path) -> Result {
    fs::create_dir(to)?;
    for file in fs::read_dir(archive)? {
        let path = file?.path();
        let name = path.file_stem().ok_or("a file without a name")?;
        io::copy(&mut GzDecoder::new(File::open(&path)?), &mut File::create(to.join(name))?)?;
    }
    Ok(())
}

fn before(entry: &keywal::Result<Entry>, index: u64) -> bool {
    entry.as_ref().map_or(true, |entry| entry.index < index)
}

fn total(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

fn reading(sensor: &str, minute: usize) -> String {
    format!("{{\"sensor\":\"{sensor}\",\"minute\":{minute},\"celsius\":{}}}", 12 + minute / 97 % 9)
}
