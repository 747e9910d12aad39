//! Running other programs, and measuring them.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What a program took, with all the programs that it started and waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Wall time in seconds.
    pub(crate) wall_s: f64,
    /// Processor time in seconds, the program's own and the kernel's for it.
    pub(crate) cpu_s: f64,
    /// The largest resident set of any of the programs, in bytes.
    pub(crate) memory_bytes_peak: u64,
}

/// How a command reads in a message.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command; what it says goes where ours goes. An error if it does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to standard output. An error if it does not succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no text", shown(command)))
}

/// Whether a program of that name can be found.
pub(crate) fn is_there(program: &str) -> bool {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs a command and says what it took. What it says goes to the file `said`, which the error
/// quotes if it does not succeed.
pub(crate) fn measured(command: &mut Command, said: &Path) -> Result<Taken> {
    let file = std::fs::File::create(said)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let began = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let (status, usage) = wait(child.id())?;
    let wall_s = began.elapsed().as_secs_f64();
    if !status.success() {
        let words = std::fs::read_to_string(said).unwrap_or_default();
        bail!("`{}` failed ({status}): {}", shown(command), words.trim());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Taken {
        wall_s,
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory_bytes_peak: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

/// Waits for a child as the standard library does, but also learns what it used.
fn wait(pid: u32) -> Result<(ExitStatus, libc::rusage)> {
    // SAFETY: rusage holds only numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    loop {
        // SAFETY: both pointers are to live values of the types that the call fills.
        let waited = unsafe { libc::wait4(pid as libc::pid_t, &mut status, 0, &mut usage) };
        if waited >= 0 {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for a child");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_command_shows_time_processor_and_memory_of_its_children() {
        let said = std::env::temp_dir().join(format!("xtask-said-{}", std::process::id()));
        // The inner shell does the work; `true` keeps the outer one from replacing itself by it.
        let work = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.2'; true";
        let taken = measured(Command::new("sh").args(["-c", work]), &said).unwrap();
        assert!(taken.wall_s > 0.2 && taken.cpu_s > 0.005, "{taken:?}");
        assert!(taken.wall_s > taken.cpu_s && taken.memory_bytes_peak > 100_000, "{taken:?}");
        let failed = measured(Command::new("sh").args(["-c", "echo why; exit 3"]), &said);
        let message = format!("{:#}", failed.unwrap_err());
        assert!(message.contains("exit status: 3") && message.ends_with("why"), "{message}");
        std::fs::remove_file(said).unwrap();
    }
}
