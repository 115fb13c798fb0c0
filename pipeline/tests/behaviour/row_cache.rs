//! A data set on a web server, streamed with and without a row cache.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::file_server::{Answer, FileServer, Request};
use crate::process::{run, trace_in};
use crate::support::Collection;

/// Serves the folder of a data set under `set/`.
fn serve(collection: &Collection) -> FileServer {
    serve_with(collection, |_, answer| answer)
}

/// As [`serve`]; `change` makes another answer of the right one.
fn serve_with(
    collection: &Collection,
    change: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> FileServer {
    let folder = collection.output("out");
    FileServer::start(move |request| {
        let path = request.target.trim_start_matches("/set/");
        let answer = match std::fs::read(folder.join(path)) {
            Ok(content) => Answer::ranged(request, &content, Some("\"one\""))
                .header("last-modified", "Mon, 02 Nov 2026 10:00:00 GMT"),
            Err(_) => Answer::new(404),
        };
        change(request, answer)
    })
}

fn rows(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut rows: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    rows.sort();
    rows
}

#[test]
fn later_runs_ask_for_nothing_but_the_manifest() {
    let collection = Collection::new(24);
    collection.build("out");
    let server = serve(&collection);
    let (url, folder) =
        (server.url("set"), collection.output("out").to_string_lossy().into_owned());
    let cache = collection.output("cache");
    let cached = [("HQSEG_CACHE_DIR", cache.to_string_lossy().into_owned())];
    // Two epochs of two global batches of eight.
    let steps = ["--steps", "4"];
    let local = trace_in(&[], &folder, 2, &steps);
    assert_eq!(trace_in(&cached, &url, 2, &steps), local);
    let kept = rows(&cache).len();
    assert!((16..=18).contains(&kept), "{kept} rows kept");
    let before = server.requests().len();
    assert_eq!(trace_in(&cached, &url, 1, &steps), trace_in(&[], &folder, 1, &steps));
    let asked: Vec<String> =
        server.requests()[before..].iter().map(|request| request.target.clone()).collect();
    assert_eq!(asked, ["/set/manifest.json"]);

    // A damaged row is read from the server again, and kept again.
    let damaged = &rows(&cache)[0];
    let whole = std::fs::read(damaged).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() - 1] ^= 1;
    std::fs::write(damaged, &bytes).unwrap();
    assert_eq!(trace_in(&cached, &url, 2, &steps), local);
    assert!(std::fs::read(damaged).unwrap() == whole);
}

#[test]
fn a_cache_too_small_for_the_data_set_still_streams_it() {
    let collection = Collection::new(24);
    collection.build("out");
    let server = serve(&collection);
    let folder = collection.output("out").to_string_lossy().into_owned();
    let cache = collection.output("cache");
    let limit = 60_000_u64;
    let small = [
        ("HQSEG_CACHE_DIR", cache.to_string_lossy().into_owned()),
        ("HQSEG_CACHE_GIB", (limit as f64 / f64::from(1 << 30)).to_string()),
    ];
    let steps = ["--steps", "6"];
    assert_eq!(trace_in(&small, &server.url("set"), 1, &steps), trace_in(&[], &folder, 1, &steps));
    let bytes: u64 = rows(&cache).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes > 0 && bytes <= limit + limit / 16, "{bytes}");
}

#[test]
fn a_server_that_cuts_connections_and_refuses_now_and_then_is_streamed_and_verified() {
    let collection = Collection::new(24);
    collection.build("out");
    let server = serve_with(&collection, |request, answer| match request.number % 5 {
        1 => answer.cut_after(100),
        3 => Answer::new(503),
        _ => answer,
    });
    let folder = collection.output("out").to_string_lossy().into_owned();
    let steps = ["--steps", "4"];
    let url = server.url("set");
    assert_eq!(trace_in(&[], &url, 1, &steps), trace_in(&[], &folder, 1, &steps));
    let before = server.requests().len();
    assert!(before > 20, "{before} requests");
    let (succeeded, stdout, stderr) = run(&["verify", &url, "--decode"]);
    assert!(succeeded && stdout.contains("every row decodes"), "{stdout}{stderr}");
}

#[test]
fn a_row_that_a_server_sends_wrong_once_is_not_kept() {
    let collection = Collection::new(24);
    collection.build("out");
    let wrong = AtomicUsize::new(0);
    let server = serve_with(&collection, move |request, answer| {
        // Long enough to be of the pages of an image; footers come with a suffix of the file.
        let of_a_row = request.target.contains("shards/") && answer.is_part();
        if of_a_row && wrong.fetch_add(1, Ordering::SeqCst) % 7 == 4 {
            return answer.flipped();
        }
        answer
    });
    let folder = collection.output("out").to_string_lossy().into_owned();
    let cache = collection.output("cache");
    let cached = [("HQSEG_CACHE_DIR", cache.to_string_lossy().into_owned())];
    let steps = ["--steps", "4", "--threads", "1"];
    let local = trace_in(&[], &folder, 1, &steps);
    assert_eq!(trace_in(&cached, &server.url("set"), 1, &steps), local);
    // Without a server there is the manifest to be had, and what was kept.
    let before = server.requests().len();
    assert_eq!(trace_in(&cached, &server.url("set"), 1, &steps), local);
    assert_eq!(server.requests().len() - before, 1, "the manifest");
}

#[test]
fn a_server_that_refuses_is_not_damage() {
    let collection = Collection::new(12);
    collection.build("out");
    for (status, damaged) in [(403, false), (401, false), (500, false), (404, true)] {
        let server = serve_with(&collection, move |request, answer| {
            if request.target.contains("shards/") { Answer::new(status) } else { answer }
        });
        let (succeeded, stdout, stderr) = run(&["verify", &server.url("set")]);
        assert!(!succeeded, "{stdout}");
        assert_eq!(stderr.contains("shards are damaged"), damaged, "{status}: {stderr}");
        assert_eq!(stderr.contains("cannot be read, nothing is known of it"), !damaged, "{stderr}");
        let (succeeded, _, stderr) = run(&["verify", &server.url("set"), "--decode"]);
        assert!(!succeeded && stderr.contains("shards are damaged") == damaged, "{stderr}");
    }
}
