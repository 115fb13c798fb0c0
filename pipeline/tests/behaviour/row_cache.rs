//! A data set on a web server, streamed with and without a row cache.

use crate::file_server::{Answer, FileServer};
use crate::process::trace_in;
use crate::support::Collection;

/// Serves the folder of a data set under `set/`.
fn serve(collection: &Collection) -> FileServer {
    let folder = collection.output("out");
    FileServer::start(move |request| {
        let path = request.target.trim_start_matches("/set/");
        match std::fs::read(folder.join(path)) {
            Ok(content) => Answer::ranged(request, &content, Some("\"one\""))
                .header("last-modified", "Mon, 02 Nov 2026 10:00:00 GMT"),
            Err(_) => Answer::new(404),
        }
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
