//! The socket on the agent's side: takes questions, and hands them to the loop that answers them.
//!
//! Each who asks has a thread; the loop alone decides. What runs tell wakes those who watch.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_core::{Error, Kind, Result};

use crate::control::{self, Answer, HEARTBEAT, Question};

/// So many may ask at once.
const ASKING_MAX: usize = 32;
/// A question is shorter.
const QUESTION_BYTES_MAX: u64 = 1 << 20;
/// How long one may take to be asked, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last answers may take, in milliseconds.
const LAST_ANSWERS_MS: u64 = 500;
/// Between two things that who watches is told.
const BREATH: Duration = Duration::from_millis(250);

/// A question, and where its answer goes.
pub(super) struct Asked {
    /// What is asked.
    pub(super) question: Question,
    /// Where the answer goes.
    pub(super) answer: Sender<Answer>,
}

/// Counts what runs tell, and wakes those who watch.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    /// Something changed.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// How often it rang, when that is not `seen` any more, or after a time.
    fn wait(&self, seen: u64, at_most: Duration) -> u64 {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |rung: &mut u64| *rung == seen;
        let waited = self.changed.wait_timeout_while(rung, at_most, same);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The socket; gone with this, when the last answers are on their way.
pub(super) struct Socket {
    path: PathBuf,
    answering: Arc<AtomicUsize>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        for _ in 0..LAST_ANSWERS_MS {
            if self.answering.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Listens there. The caller is the only agent: a socket that is there was left by a killed one.
pub(super) fn listen(path: &Path, bell: &Arc<Bell>) -> Result<(Socket, Receiver<Asked>)> {
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot listen at {}", path.display()), error)
            .hint("nobody can ask the agent; what is scheduled runs all the same")
    };
    let listener = control::bind(path).map_err(failed)?;
    let (sender, receiver) = channel();
    let (bell, asking) = (Arc::clone(bell), Arc::new(AtomicUsize::new(0)));
    let answering = Arc::new(AtomicUsize::new(0));
    let socket = Socket { path: path.to_owned(), answering: Arc::clone(&answering) };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if asking.fetch_add(1, Ordering::Relaxed) >= ASKING_MAX || !is_allowed(&stream) {
                asking.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (sender, bell, asking) = (sender.clone(), Arc::clone(&bell), Arc::clone(&asking));
            let answering = Arc::clone(&answering);
            std::thread::spawn(move || {
                // Who asks may be gone at any time.
                let _ = serve(stream, &sender, &bell, &answering);
                asking.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok((socket, receiver))
}

/// The mode of the socket says it, and on a system that does not heed that, the kernel does.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

fn serve(
    mut stream: UnixStream,
    sender: &Sender<Asked>,
    bell: &Bell,
    answering: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    let reader = stream.try_clone()?;
    BufReader::new(reader.take(QUESTION_BYTES_MAX)).read_until(b'\n', &mut line)?;
    let question: Question = match serde_json::from_slice(&line) {
        Ok(question) => question,
        Err(error) => {
            let answer = Answer::Refused(format!("this is no question: {error}"));
            return tell(&mut stream, &answer);
        }
    };
    if question != Question::Watch {
        answering.fetch_add(1, Ordering::Relaxed);
        let told = tell(&mut stream, &answered(sender, question));
        answering.fetch_sub(1, Ordering::Relaxed);
        return told;
    }
    let mut seen = None;
    loop {
        let rung = bell.wait(seen.unwrap_or(u64::MAX), HEARTBEAT);
        tell(&mut stream, &answered(sender, Question::State))?;
        seen = Some(rung);
        // What runs tell comes in showers.
        breathe(&stream)?;
    }
}

/// Waits a moment, and no longer where who asks is gone.
fn breathe(stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(BREATH))?;
    match (&mut (&*stream)).read(&mut [0; 16]) {
        Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Err(error)
            if !matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// What the loop answers.
fn answered(sender: &Sender<Asked>, question: Question) -> Answer {
    let gone = || Answer::Refused("the agent has ended".to_owned());
    let (answer, receiver) = channel();
    if sender.send(Asked { question, answer }).is_err() {
        return gone();
    }
    receiver.recv().unwrap_or_else(|_| gone())
}

fn tell(stream: &mut UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}
