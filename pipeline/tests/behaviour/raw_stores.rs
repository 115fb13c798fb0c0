//! Raw files in an object store and on a web server: the S3 server that `scripts/setup-servers.sh`
//! installs. Without it the tests are skipped, unless `HQSAM_TEST_SERVERS` is set.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use pipeline::input::Input;

use crate::forms::{Files, collection, tarred, with_archives, write, zipped};
use crate::support::contents;

/// A running S3 server with one bucket. Ends when dropped.
struct S3 {
    child: Child,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl S3 {
    /// `None`, with a message, where the server is not installed and need not be.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn start() -> Option<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/servers/moto");
        if !folder.is_dir() {
            let required = std::env::var_os("HQSAM_TEST_SERVERS").is_some();
            assert!(!required, "HQSAM_TEST_SERVERS is set: run scripts/setup-servers.sh");
            println!("skipped: no S3 server; run scripts/setup-servers.sh");
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONPATH", folder)
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| Some(line.split_once("Running on http://")?.1.trim().to_owned()))
            .expect("the server says where it listens");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        let server = Self { child, address, log };
        let made = Command::new("python3")
            .arg("-c")
            .arg("import sys, urllib.request as r; r.urlopen(r.Request(sys.argv[1], method='PUT'))")
            .arg(format!("http://{}/bucket", server.address))
            .status();
        assert!(made.unwrap().success());
        Some(server)
    }

    fn put(&self, prefix: &str, files: &Files) {
        let store = AmazonS3Builder::new()
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_endpoint(format!("http://{}", self.address))
            .with_bucket_name("bucket")
            .with_access_key_id("key")
            .with_secret_access_key("secret")
            .build()
            .unwrap();
        let store: Box<dyn ObjectStore> = Box::new(store);
        let write = async {
            for (path, bytes) in files {
                let key = Key::parse(format!("{prefix}{path}")).unwrap();
                store.put(&key, bytes.clone().into()).await.unwrap();
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(write);
    }

    /// Builds with `root` as the root; what `hqseg` said where it failed.
    fn build(&self, root: &str, output: &Path) -> Result<(), String> {
        let config = output.with_extension("toml");
        let text = format!(
            "output = {output:?}\n[[source]]\nname = 'source'\nlayout = 'dis5k'\nroot = {root:?}\n"
        );
        std::fs::write(&config, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_hqseg"))
            .arg("build")
            .arg(&config)
            .env("HQSEG_LOG", "warn")
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1")
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn raw_files_of_a_store_build_the_shards_of_a_folder() {
    let Some(server) = S3::start() else { return };
    let names = ["1#Thin things#2#a b#3", "%3F+é", "abe's (1) [x]~&=;", "a%20b", "plain"];
    let paths: Vec<[String; 2]> = names
        .iter()
        .map(|name| [format!("DIS-TR/im/{name}.jpg"), format!("DIS-TR/gt/{name}.png")])
        .collect();
    let pairs: Vec<(&str, &str)> = paths.iter().map(|[image, mask]| (&**image, &**mask)).collect();
    let files = collection(&pairs, &[("__MACOSX/DIS-TR/im/._plain.jpg", "leftover")]);
    let place = tempfile::tempdir().unwrap();
    write(&place.path().join("DIS5K"), &files);
    let folder = place.path().join("DIS5K").to_string_lossy().into_owned();
    server.build(&folder, &place.path().join("expected")).unwrap();
    let expected = contents(&place.path().join("expected/shards"));
    assert!(!expected.is_empty());

    server.put("raw #1?/DIS 5K/", &files);
    server.put("parts/", &with_archives(&files));
    server.put("", &Files::from([("whole.zip".to_owned(), zipped(&files))]));
    server.put("in/", &Files::from([("whole.tar".to_owned(), tarred(&files))]));
    let web = Web::serve(zipped(&files), 0);
    let on_the_web = format!("http://{}/some/whole.zip", web.address);
    let roots = [
        "s3://bucket/raw #1?/DIS 5K",
        "s3://bucket/raw%20%231%3F/DIS%205K/",
        "s3://bucket/parts",
        "s3://bucket/whole.zip",
        "s3://bucket/whole",
        "s3://bucket/in/whole.tar/DIS-TR",
        &on_the_web,
        &format!("file://{folder}"),
    ];
    for (index, root) in roots.iter().enumerate() {
        let output = place.path().join(format!("out{index}"));
        server.build(root, &output).unwrap_or_else(|said| panic!("{root}: {said}"));
        let shards = contents(&output.join("shards"));
        assert!(shards == expected, "{root}");
    }
    let log = server.log.lock().unwrap();
    let whole: Vec<&String> = log
        .iter()
        .filter(|line| line.contains("GET") && line.contains("/whole.") && !line.contains("206"))
        .collect();
    assert!(whole.is_empty(), "archives are read by ranges: {whole:?}");
    drop(log);

    let failed = |root: &str| server.build(root, &place.path().join("failed")).unwrap_err();
    let web_folder = failed(&format!("http://{}/some/parts", web.address));
    assert!(web_folder.contains("HTTP has no listing"), "{web_folder}");
    let nothing = failed("s3://bucket/nothing here");
    assert!(nothing.contains("s3://bucket/nothing here is not a folder"), "{nothing}");
    let scheme = failed("ftp://host/raw");
    assert!(scheme.contains("ftp://host/raw"), "{scheme}");
}

/// A web server that has one file, gives parts of it, and breaks off some of its answers.
struct Web {
    address: String,
    cuts_left: Arc<AtomicUsize>,
    sent_bytes: Arc<AtomicUsize>,
}

impl Web {
    fn serve(file: Vec<u8>, cuts: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cuts_left, sent_bytes) = (Arc::new(AtomicUsize::new(cuts)), Arc::default());
        let (cuts, sent) = (Arc::clone(&cuts_left), Arc::clone(&sent_bytes));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                answer(client, &file, &cuts, &sent);
            }
        });
        Self { address, cuts_left, sent_bytes }
    }
}

/// One request and its answer; the connection is not kept.
fn answer(mut client: TcpStream, file: &[u8], cuts: &AtomicUsize, sent: &AtomicUsize) {
    let lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
    let request: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let range = request.iter().find_map(|line| line.strip_prefix("range: bytes="));
    let (status, range) = match range.and_then(|range| range.split_once('-')) {
        Some((start, end)) => (206, start.parse().unwrap()..end.parse::<usize>().unwrap() + 1),
        None => (200, 0..file.len()),
    };
    let mut head = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\nETag: \"1\"\r\n\
         Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n",
        range.len()
    );
    if status == 206 {
        head +=
            &format!("Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, file.len());
    }
    let _gone = client.write_all(format!("{head}\r\n").as_bytes());
    if request[0].starts_with("get") {
        let mut body = &file[range];
        let take = |left: usize| left.checked_sub(1);
        if body.len() > 100 && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            body = &body[..body.len() / 2];
        }
        sent.fetch_add(body.len(), Ordering::SeqCst);
        let _gone = client.write_all(body);
    }
}

#[test]
fn answers_that_break_off_are_asked_for_again_and_only_what_is_needed_is_fetched() {
    let mut files = collection(&[("a.jpg", "a.png")], &[]);
    // Does not compress: 8 MB that nobody asks for.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    });
    files.insert("unused.bin".into(), noise.take(8 << 20).collect());
    let web = Web::serve(zipped(&files), 3);
    let input = Input::open(Path::new(&format!("http://{}/set.zip", web.address))).unwrap();
    for name in ["a.jpg", "a.png"] {
        assert!(input.read_file(name, 1 << 20).unwrap() == files[name], "{name}");
    }
    assert_eq!(web.cuts_left.load(Ordering::SeqCst), 0);
    let sent = web.sent_bytes.load(Ordering::SeqCst);
    assert!(sent < 4 << 20, "{sent} bytes for a few thousand");
}
