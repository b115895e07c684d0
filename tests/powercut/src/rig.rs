//! The bench the disk stands on: a process of its own that serves the disk and holds the power switch,
//! a loop device on it, and a file system on that.
//!
//! The process is not this one because a file system that waits for its disk cannot be killed: if both
//! were one process, it could never end half-way. When this one ends, however it does, the other sees
//! the end of its input and takes everything down.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::{panic, process, thread};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::{Check, guarded};
use crate::disk::{Disk, hold};
use crate::fuse;

/// A kind of file system.
pub struct FileSystem {
    pub name: &'static str,
    /// Of the disk.
    bytes: usize,
    /// A power cut leaves these whole, or not at all.
    sector_bytes: usize,
    mkfs: &'static [&'static str],
    /// Mount options that make a difference to what a power cut leaves.
    pub options: &'static [&'static str],
    /// Takes nothing more once the disk has failed a write of its own.
    pub shuts_down: bool,
}

pub const EXT4: FileSystem = FileSystem {
    name: "ext4",
    bytes: 16 << 20,
    sector_bytes: 512,
    mkfs: &[
        "-q",
        "-F",
        "-b",
        "4096",
        "-J",
        "size=4",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ],
    options: &["data=ordered", "nodelalloc", "data=writeback", "data=journal"],
    shuts_down: false,
};

/// Larger sectors: XFS does not replay changes to a block whose first sector says that it has them, so
/// it takes a torn block of its own for damage and does not mount.
pub const XFS: FileSystem = FileSystem {
    name: "xfs",
    bytes: 320 << 20,
    sector_bytes: 4096,
    mkfs: &["-q", "-f", "-K"],
    options: &["nouuid"],
    shuts_down: true,
};

pub struct Rig {
    pub file_system: &'static FileSystem,
    root: PathBuf,
    loop_device: String,
    line: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Dropped last, when `line` has been cut: that is the sign to take everything down.
    _serving: Serving,
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

impl Rig {
    /// Why there can be no such rig here, if that is so.
    pub fn missing(file_system: &FileSystem) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("root is needed to mount".into());
        }
        let mkfs = format!("mkfs.{}", file_system.name);
        let mut devices = ["/dev/fuse", "/dev/loop-control"].iter();
        if let Some(device) = devices.find(|path| !Path::new(path).exists()) {
            return Some(format!("there is no {device}"));
        }
        let mut programs = [mkfs.as_str(), "losetup"].into_iter();
        let absent = |program: &&str| Command::new(program).arg("-V").output().is_err();
        programs.find(absent).map(|program| format!("{program} is not installed"))
    }

    /// Plugs everything together and formats the disk.
    pub fn new(file_system: &'static FileSystem) -> Check<Self> {
        static RIGS: AtomicU64 = AtomicU64::new(0);
        let name = format!("keywal-powercut-{}-{}", process::id(), RIGS.fetch_add(1, Relaxed));
        let root = std::env::temp_dir().join(name);
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let sizes = [file_system.bytes, file_system.sector_bytes].map(|bytes| bytes.to_string());
        let mut serving = Command::new(program)
            .arg("serve")
            .arg(&root)
            .args(sizes)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start the disk: {error}"))?;
        let (Some(input), Some(output)) = (serving.stdin.take(), serving.stdout.take()) else {
            return Err("no pipes to the disk".into());
        };
        let mut output = BufReader::new(output);
        let loop_device = read_line(&mut output)?;
        let line = Mutex::new((input, output));
        let rig = Self { file_system, root, loop_device, line, _serving: Serving(serving) };
        let mkfs = format!("mkfs.{}", file_system.name);
        run(Command::new(mkfs).args(file_system.mkfs).arg(&rig.loop_device))?;
        rig.ask("formatted")?;
        Ok(rig)
    }

    /// A command of [`Disk::obey`].
    pub fn ask(&self, command: &str) -> Check<u64> {
        let (input, output) = &mut *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(input, "{command}").map_err(|error| format!("ask the disk: {error}"))?;
        let answer = read_line(output)?;
        answer.parse().map_err(|_| format!("the disk says: {answer}"))
    }

    /// Mounts the file system, replaying its journal, does something in it, and unmounts it.
    pub fn mounted<T>(&self, options: &str, work: impl FnOnce(&Path) -> Check<T>) -> Check<T> {
        let place = self.root.join("mounted");
        let data = CString::new(options).map_err(|error| error.to_string())?;
        mount(&self.loop_device, &place, self.file_system.name, MountFlags::NOATIME, &*data)
            .map_err(|error| format!("mount: {error}"))?;
        let result = guarded(|| work(&place));
        unmount(&place, UnmountFlags::empty()).map_err(|error| format!("unmount: {error}"))?;
        result
    }
}

/// The other process: serves the disk until its input ends, and takes everything down.
pub fn serve(root: &PathBuf, disk: Disk) -> Check {
    panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        process::exit(1);
    }));
    let plugged = |error: io::Error| format!("plug in the disk: {error}");
    let (server, place) = (root.join("server"), root.join("mounted"));
    fs::create_dir_all(&server).and_then(|()| fs::create_dir_all(&place)).map_err(plugged)?;
    let disk = Arc::new(Mutex::new(disk));
    let fuse = File::options().read(true).write(true).open("/dev/fuse").map_err(plugged)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    let options = CString::new(options).map_err(|error| error.to_string())?;
    mount("keywal-powercut", &server, "fuse", MountFlags::NOSUID, &*options)
        .map_err(|error| plugged(error.into()))?;
    thread::spawn({
        let disk = disk.clone();
        move || fuse::serve(&fuse, &disk).unwrap_or_else(|error| panic!("FUSE: {error}"))
    });
    let loop_device =
        run(Command::new("losetup").args(["--find", "--show"]).arg(server.join(fuse::FILE)));
    println!("{}", loop_device.as_deref().unwrap_or_default());
    for command in io::stdin().lines().map_while(Result::ok) {
        match hold(&disk).obey(&command) {
            Ok(number) => println!("{number}"),
            Err(text) => println!("{text}"),
        }
    }
    // Whoever asked may be gone without having unmounted.
    let _ = unmount(&place, UnmountFlags::DETACH);
    run(Command::new("losetup").arg("--detach").arg(loop_device?))?;
    unmount(&server, UnmountFlags::DETACH).map_err(|error| format!("unplug the disk: {error}"))?;
    let removed = [&server, &place, root].into_iter().try_for_each(fs::remove_dir);
    removed.map_err(|error| format!("remove {}: {error}", root.display()))
}

fn read_line(from: &mut impl BufRead) -> Check<String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(|error| format!("hear the disk: {error}"))?;
    match line.trim_end() {
        "" => Err("the disk does not answer".into()),
        line => Ok(line.into()),
    }
}

fn run(command: &mut Command) -> Check<String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().into())
    } else {
        Err(format!("{command:?}: {error}"))
    }
}
