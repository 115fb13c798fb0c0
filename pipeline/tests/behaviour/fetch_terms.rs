//! What `hqseg fetch` refuses, whom it trusts, and what becomes of the archives it brings.

use std::io::{Cursor, Write};
use std::sync::Arc;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::fetching::{Desk, Run, content, read, run, sha256};
use crate::file_server::{Answer, FileServer};
use crate::support::{Collection, contents};

/// An archive of the given files.
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn refused(done: &Run, expected: &str) {
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    assert!(done.stderr.contains(expected), "{}", done.stderr);
    let last = done.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{last}");
}

#[test]
fn nothing_comes_before_the_terms_are_accepted() {
    let server = FileServer::start(|_| Answer::file(b"content"));
    let desk = Desk::single(&server, "size='7 bytes'");
    let shown = run(&mut desk.command(&[]));
    assert_eq!(shown.code, Some(2));
    for text in ["licence: none of your business", "https://terms.example", "7 bytes, from http"] {
        assert!(shown.stdout.contains(text), "{}", shown.stdout);
    }
    assert!(shown.stderr.contains("add --accept-license (it)"), "{}", shown.stderr);
    assert_eq!((server.requests().len(), desk.names()), (0, vec![]));
    assert_eq!(desk.fetch(&[]).code, Some(0));
}

#[test]
fn the_shipped_list_is_printed_and_unknown_names_are_refused() {
    let list = run(hqseg().args(["fetch", "--list"]));
    for text in ["ecssd", "data/raw/ECSSD/images.zip: 64.6 MB", "CC BY-NC 4.0", "by hand"] {
        assert!(list.stdout.contains(text), "{}", list.stdout);
    }
    refused(&run(hqseg().args(["fetch", "ECSD"])), "no source `ECSD`; did you mean `ecssd`?");
    assert_eq!(run(hqseg().arg("fetch")).code, Some(2));
}

fn hqseg() -> std::process::Command {
    std::process::Command::new(env!("CARGO_BIN_EXE_hqseg"))
}

#[test]
fn a_web_page_is_no_archive() {
    let page = format!("<!DOCTYPE html><title>Sign in</title>{}", " ".repeat(100_000));
    let server = FileServer::start(move |_| Answer::file(page.as_bytes()));
    let desk = Desk::new(&[format!("path='x.zip'\nurls=['{}']", server.url("x"))]);
    refused(&desk.fetch(&[]), "a web page titled `Sign in` came instead of");
    assert_eq!((server.requests().len(), desk.names()), (1, vec![]));
    // Neither is one that was put there by hand.
    std::fs::write(desk.path("x.zip"), "<html>").unwrap();
    refused(&desk.fetch(&[]), "a web page came instead of");
}

#[test]
fn a_wrong_size_or_hash_is_refused() {
    let server = FileServer::start(|_| Answer::file(b"content"));
    let desk = Desk::single(&server, "bytes=8");
    refused(&desk.fetch(&[]), "7 bytes, but 8 by the catalogue");
    assert_eq!(desk.names(), Vec::<String>::new());

    let wrong = "0".repeat(64);
    let desk = Desk::single(&server, &format!("bytes=7\nsha256='{wrong}'"));
    let expected = format!("sha256 {}, but {wrong} by the catalogue", sha256(b"content"));
    refused(&desk.fetch(&[]), &expected);
    assert_eq!(desk.names(), Vec::<String>::new());
}

#[test]
fn a_later_download_must_agree_with_the_first() {
    let server = FileServer::start(|request| match request.number {
        0 => Answer::file(b"first"),
        _ => Answer::file(b"second"),
    });
    let desk = Desk::single(&server, "");
    assert_eq!(desk.fetch(&[]).code, Some(0));
    std::fs::remove_file(desk.path("x.bin")).unwrap();
    let changed = desk.fetch(&[]);
    refused(&changed, "by the record of the first download; delete ");
    assert_eq!(desk.names(), ["x.bin.fetched.json"]);
    std::fs::remove_file(desk.path("x.bin.fetched.json")).unwrap();
    assert_eq!(desk.fetch(&[]).code, Some(0));
    assert_eq!(read(&desk.path("x.bin")), b"second");
}

#[test]
fn a_file_larger_than_the_disk_is_not_begun() {
    let server = FileServer::start(|_| Answer::file(b"PK").announcing(1 << 60));
    let desk = Desk::single(&server, "");
    refused(&desk.fetch(&[]), "1.15 EB more are needed there");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn refusals_say_what_to_do() {
    for (status, hint) in [
        (401, "the server answers 401: ask there for the file and put it at "),
        (403, "the server answers 403: ask there for the file and put it at "),
        (404, "the server answers 404: the file has moved"),
        (410, "the server answers 410: the file has moved"),
    ] {
        let server = FileServer::start(move |_| Answer::new(status));
        refused(&Desk::single(&server, "").fetch(&[]), hint);
        assert_eq!(server.requests().len(), 1, "{status} is not asked again");
    }
}

#[test]
fn a_second_address_is_taken_where_the_first_fails() {
    let gone = FileServer::start(|_| Answer::new(404));
    let mirror = FileServer::start(|_| Answer::file(b"content"));
    let urls = format!("path='x.bin'\nurls=['{}', '{}']", gone.url("x"), mirror.url("x"));
    let desk = Desk::new(&[urls]);
    assert_eq!(desk.fetch(&[]).code, Some(0));
    assert_eq!(read(&desk.path("x.bin")), b"content");
}

/// A hub whose storage is elsewhere, as the Hugging Face hub's is.
fn hub(storage: &FileServer, announced: &[u8]) -> FileServer {
    let (place, tag, length) =
        (storage.url("signed?key=1"), format!("\"{}\"", sha256(announced)), announced.len());
    FileServer::start(move |request| match request.header("authorization") {
        Some("Bearer hf_secret") => Answer::new(302)
            .header("location", &place)
            .header("x-linked-etag", &tag)
            .header("x-linked-size", &length.to_string()),
        _ => Answer::new(401),
    })
}

#[test]
fn the_token_goes_to_the_hub_alone_and_its_hash_is_checked() {
    let file = content(100_000, 1);
    let served = Arc::clone(&file);
    let storage = FileServer::start(move |request| {
        Answer::ranged(request, &served, Some("\"v1\"")).cut_after(60_000)
    });
    let desk = Desk::new(&["path='x.bin'\nurls=['hf://team/set/data/x.bin']".into()]);
    let ask = |hub: &FileServer, token: Option<&str>| {
        let mut command = desk.command(&["--accept-license"]);
        command.env("HF_ENDPOINT", hub.url("")).envs(token.map(|token| ("HF_TOKEN", token)));
        run(&mut command)
    };

    let right = hub(&storage, &file);
    refused(&ask(&right, None), "answers 401: if the repository is gated, ask for access");
    refused(&ask(&right, Some("other")), "the account of HF_TOKEN has no access");
    assert_eq!(storage.requests().len(), 0);
    refused(&ask(&hub(&storage, &file[..99_999]), Some("hf_secret")), "by the Hugging Face hub");
    let mut other = file.to_vec();
    other[0] ^= 1;
    refused(&ask(&hub(&storage, &other), Some("hf_secret")), "by the Hugging Face hub");
    assert_eq!(desk.names(), Vec::<String>::new());

    let before = storage.requests().len();
    let done = ask(&right, Some("hf_secret"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(read(&desk.path("x.bin")) == **file);
    assert_eq!(right.requests().last().unwrap().target, "/team/set/resolve/main/data/x.bin");
    // Two drops: each new attempt asks the hub for a fresh signature.
    assert_eq!(storage.requests().len() - before, 2);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None, "the token left the hub");
        assert_eq!(request.target, "/signed?key=1");
    }
}

#[test]
fn what_has_no_address_is_asked_for_and_then_checked() {
    let zip = archive(&[("set/im/1.jpg".into(), b"image".to_vec())]);
    let entry = format!(
        "path='set.zip'\nby_hand='https://drive.example/set'\nsha256='{}'\nunpack='set'",
        sha256(&zip)
    );
    let desk = Desk::new(&[entry]);
    let asked = run(&mut desk.command(&[]));
    refused(&asked, "to be brought by hand");
    assert!(asked.stdout.contains("set.zip: ask for it at https://drive.example/set and put it"));

    std::fs::create_dir_all(desk.path("")).unwrap();
    std::fs::write(desk.path("set.zip"), &zip[1..]).unwrap();
    refused(&run(&mut desk.command(&[])), "came instead of");
    std::fs::write(desk.path("set.zip"), &zip).unwrap();
    let done = run(&mut desk.command(&[]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(read(&desk.path("set/im/1.jpg")), b"image");
    assert_eq!(desk.names(), ["set", "set.zip", "set.zip.fetched.json"]);
    // The archive may go once it is unpacked.
    std::fs::remove_file(desk.path("set.zip")).unwrap();
    assert_eq!(run(&mut desk.command(&[])).code, Some(0));
}

#[test]
fn what_was_fetched_builds() {
    let collection = Collection::new(12);
    let mut parts = [("images.zip", Vec::new()), ("ground_truth_mask.zip", Vec::new())];
    for (name, bytes) in contents(&collection.raw()) {
        // One archive has its folder inside, the other one has not.
        match name.strip_prefix("ground_truth_mask/") {
            Some(name) => parts[1].1.push((name.to_owned(), bytes)),
            None => parts[0].1.push((name, bytes)),
        }
    }
    let files: Vec<(&str, Vec<u8>)> =
        parts.iter().map(|(name, files)| (*name, archive(files))).collect();
    let served = files.clone();
    let server = FileServer::start(move |request| {
        let (_, zip) = served.iter().find(|(name, _)| request.target.ends_with(name)).unwrap();
        Answer::ranged(request, zip, Some("\"v1\"")).cut_after(10_000)
    });
    let entries: Vec<String> = files
        .iter()
        .map(|(name, _)| {
            let folder = name.trim_end_matches(".zip");
            format!("path='E/{name}'\nurls=['{}']\nunpack='E/{folder}'", server.url(name))
        })
        .collect();
    let desk = Desk::new(&entries);
    assert_eq!(desk.fetch(&["--keep-packed"]).code, Some(0));
    assert!(!desk.path("E/images").exists());
    let done = run(&mut desk.command(&[]));
    assert!(done.stdout.contains("12 files unpacked"), "{}{}", done.stdout, done.stderr);
    assert_eq!(server.body_bytes(), files.iter().map(|(_, zip)| zip.len() as u64).sum::<u64>());

    let mut config = collection.config("built");
    config.source[0].root = desk.path("E");
    assert_eq!(pipeline::build(&config).unwrap().rows, 12);
}
