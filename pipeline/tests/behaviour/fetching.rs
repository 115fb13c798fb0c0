//! Downloads by the real program from a real server that drops, repeats, moves and lies.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::file_server::{Answer, FileServer, Request};

/// A folder with a catalogue and room for what it brings.
pub(crate) struct Desk {
    folder: TempDir,
}

/// How a run of the program ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    /// A catalogue of one source, `it`, whose files are the given lines of TOML.
    pub(crate) fn new(files: &[String]) -> Self {
        let files: String = files.iter().map(|file| format!("[[source.file]]\n{file}\n")).collect();
        let catalogue = format!(
            "[[source]]\nname='it'\ntitle='A collection'\nlicense='none of your business'\n\
             terms='https://terms.example'\nfolder='unused'\n{files}"
        );
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(desk.folder.path().join("catalogue.toml"), catalogue).unwrap();
        desk
    }

    /// A single file `x.bin` at the server, with more keys.
    pub(crate) fn single(server: &FileServer, more: &str) -> Self {
        Self::new(&[format!("path='x.bin'\nurls=['{}']\n{more}", server.url("x.bin"))])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hqseg"));
        command.args(["fetch", "it", "--retry-pause", "1", "--to"]).arg(self.path(""));
        command.arg("--catalogue").arg(self.folder.path().join("catalogue.toml")).args(more);
        for name in ["HF_TOKEN", "HF_ENDPOINT", "NO_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
    }

    /// Runs the program with the terms accepted.
    pub(crate) fn fetch(&self, more: &[&str]) -> Run {
        run(self.command(more).arg("--accept-license"))
    }

    /// Starts the program and waits until the partial file of `name` has `length` bytes.
    fn started(&self, name: &str, length: u64) -> Child {
        let mut command = self.command(&["--accept-license"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let partial = self.path(&format!("{name}.partial"));
        let deadline = Instant::now() + Duration::from_secs(120);
        while std::fs::metadata(&partial).map_or(0, |file| file.len()) < length {
            assert!(Instant::now() < deadline, "{length} bytes never came");
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Bytes without a pattern that an offset of one block would hide.
pub(crate) fn content(length: usize, seed: u64) -> Arc<Vec<u8>> {
    let mut state = seed;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    Arc::new(std::iter::repeat_with(next).take(length).collect())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_download_goes_on_after_every_drop_and_no_byte_comes_twice() {
    let file = content(400_000, 1);
    let served = Arc::clone(&file);
    let server = FileServer::start(move |request| {
        Answer::ranged(request, &served, Some("\"v1\"")).cut_after(30_000)
    });
    let desk = Desk::single(&server, "");
    // One failure in a row is allowed: each drop after new bytes starts the count anew.
    let done = desk.fetch(&["--retries", "1"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!(server.body_bytes(), 400_000, "no byte was sent twice");
    let requests = server.requests();
    assert_eq!(requests.len(), 14);
    assert_eq!(requests[0].header("range"), None);
    assert_eq!(requests[13].header("range"), Some("bytes=390000-"));
    assert_eq!(requests[13].header("if-range"), Some("\"v1\""));
    assert_eq!(desk.names(), ["x.bin", "x.bin.fetched.json"]);
    assert!(
        String::from_utf8(read(&desk.path("x.bin.fetched.json"))).unwrap().contains(&sha256(&file))
    );

    // Everything is there: no request, and no terms to accept.
    let again = run(&mut desk.command(&["--verify"]));
    assert_eq!((again.code, again.stdout.ends_with("x.bin: is there\n")), (Some(0), true));
    assert_eq!(server.requests().len(), 14);
    std::fs::write(desk.path("x.bin"), vec![0; 400_000]).unwrap();
    let damaged = run(&mut desk.command(&["--verify"]));
    assert!(damaged.stderr.contains("by the record of the first download"), "{}", damaged.stderr);
}

#[test]
fn a_killed_download_goes_on_and_two_at_once_do_not_mix() {
    let file = content(300_000, 2);
    let served = Arc::clone(&file);
    let server = FileServer::start(move |request| {
        let answer = Answer::ranged(request, &served, Some("\"v1\""));
        if request.number < 2 { answer.silent_after(100_000) } else { answer }
    });
    let desk = Desk::single(&server, "");
    for length in [100_000, 200_000] {
        let mut child = desk.started("x.bin", length);
        let other = desk.fetch(&[]);
        assert!(other.stderr.contains("another download is writing there"), "{}", other.stderr);
        // SIGKILL: no handler runs.
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!desk.path("x.bin").exists());
    }
    let done = desk.fetch(&[]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!(server.body_bytes(), 300_000, "no byte was sent twice");
}

#[test]
fn a_silent_connection_counts_as_broken() {
    let file = content(100_000, 3);
    let served = Arc::clone(&file);
    let server = FileServer::start(move |request| {
        let answer = Answer::ranged(request, &served, Some("\"v1\""));
        if request.number == 0 { answer.silent_after(50_000) } else { answer }
    });
    let desk = Desk::single(&server, "");
    assert_eq!(desk.fetch(&["--stall", "300"]).code, Some(0));
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!(server.body_bytes(), 100_000);
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    let file = content(200_000, 4);
    let served = Arc::clone(&file);
    let server = FileServer::start(move |request| {
        let answer = Answer::file(&served).header("etag", "\"v1\"");
        if request.number == 0 { answer.cut_after(150_000) } else { answer }
    });
    let desk = Desk::single(&server, "");
    assert_eq!(desk.fetch(&[]).code, Some(0));
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=150000-"));
    assert_eq!(server.body_bytes(), 350_000);

    // One that always breaks off at the same place is given up.
    let served = Arc::clone(&file);
    let server = FileServer::start(move |_| Answer::file(&served).cut_after(150_000));
    let failed = Desk::single(&server, "").fetch(&["--retries", "2"]);
    assert!(failed.stderr.contains("gave up after 3 failures in a row"), "{}", failed.stderr);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_file_that_changes_between_attempts_is_started_over() {
    let (old, new) = (content(200_000, 5), content(200_000, 6));
    let (first, second) = (Arc::clone(&old), Arc::clone(&new));
    let server = FileServer::start(move |request| match request.number {
        0 => Answer::ranged(request, &first, Some("\"old\"")).cut_after(120_000),
        _ => Answer::ranged(request, &second, Some("\"new\"")),
    });
    let desk = Desk::single(&server, "");
    assert_eq!(desk.fetch(&[]).code, Some(0));
    assert!(read(&desk.path("x.bin")) == **new, "not a mixture");

    // The same without tags, where only the hash can tell: with one the pieces are tried and found
    // wrong, without one nothing is pieced together.
    for (more, requests) in [(format!("sha256='{}'", sha256(&new)), 3), (String::new(), 2)] {
        let (first, second) = (Arc::clone(&old), Arc::clone(&new));
        let server = FileServer::start(move |request| match request.number {
            0 => Answer::ranged(request, &first, None).cut_after(120_000),
            _ => Answer::ranged(request, &second, None),
        });
        let desk = Desk::single(&server, &more);
        let done = desk.fetch(&[]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(read(&desk.path("x.bin")) == **new, "not a mixture");
        assert_eq!(server.requests().len(), requests);
    }
}

#[test]
fn a_download_that_was_whole_but_not_renamed_is_recognised() {
    let file = content(100_000, 7);
    let served = Arc::clone(&file);
    let server = FileServer::start(move |request| match request.number {
        // All bytes, but one more is announced.
        0 => Answer::file(&served).header("etag", "\"v1\"").announcing(100_001),
        _ => Answer::ranged(request, &served, Some("\"v1\"")),
    });
    let desk = Desk::single(&server, "");
    assert_eq!(desk.fetch(&[]).code, Some(0));
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!((server.requests().len(), server.body_bytes()), (2, 100_000));
}

#[test]
fn busy_servers_are_asked_again_when_they_say() {
    let server = FileServer::start(|request| match request.number {
        0 => Answer::new(429).header("retry-after", "1"),
        1 => Answer::new(503),
        _ => Answer::ranged(request, b"content", None),
    });
    let desk = Desk::single(&server, "");
    let done = desk.fetch(&[]);
    assert_eq!(done.code, Some(0));
    assert!(done.stderr.contains("answers 429; again in 1000 ms"), "{}", done.stderr);
    assert!(done.stderr.contains("answers 503; again in 2 ms"), "{}", done.stderr);
    assert_eq!(read(&desk.path("x.bin")), b"content");

    let server = FileServer::start(|_| Answer::new(503).header("retry-after", "3600"));
    let desk = Desk::single(&server, "");
    let later = desk.fetch(&[]);
    assert!(later.stderr.contains("asks to wait 3600 s; run the same command later"));
    assert_eq!((later.code, desk.names()), (Some(1), vec![]));
}

#[test]
fn files_come_together_but_no_more_than_allowed() {
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Nobody is answered before two are there: one at a time would never end.
    let pair = std::sync::Barrier::new(2);
    let seen = Arc::clone(&peak);
    let server = FileServer::start(move |request| {
        seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        pair.wait();
        running.fetch_sub(1, Ordering::SeqCst);
        Answer::ranged(request, request.target.as_bytes(), None)
    });
    let files: Vec<String> = (0..6)
        .map(|index| format!("path='{index}.bin'\nurls=['{}']", server.url(&index.to_string())))
        .collect();
    let desk = Desk::new(&files);
    assert_eq!(desk.fetch(&["--parallel", "2"]).code, Some(0));
    assert_eq!(peak.load(Ordering::SeqCst), 2);
    assert_eq!(read(&desk.path("5.bin")), b"/5");
}

#[test]
fn proxies_are_taken_from_the_environment() {
    let proxy = FileServer::start(|request: &Request| Answer::file(request.target.as_bytes()));
    let url = "http://collection.example/x.bin";
    let desk = Desk::new(&[format!("path='x.bin'\nurls=['{url}']")]);
    let mut command = desk.command(&["--accept-license"]);
    assert_eq!(run(command.env("http_proxy", proxy.url(""))).code, Some(0));
    assert_eq!(read(&desk.path("x.bin")), url.as_bytes());
}

#[test]
fn without_a_terminal_lines_say_how_far_a_file_has_come() {
    let server = FileServer::start(|request| Answer::ranged(request, &[7; 300_000], None));
    let desk = Desk::single(&server, "");
    let run = desk.fetch(&[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("x.bin: 0 B of 300.00 kB, 0 %"), "{}", run.stderr);
}
