//! Real object store servers, started by the tests that use them; `scripts/setup-servers.sh`
//! installs them. Tests without them are skipped, unless `HQSAM_TEST_SERVERS=required` is set.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};

const ACCOUNT: &str = "devstoreaccount1";
/// The emulator's account key, the same everywhere and printed in its manual.
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the bucket, or the container, which needs a signature.
const MAKE_BUCKET: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
kind, url, account, key = sys.argv[1:]
if kind == "s3":
    request = urllib.request.Request(url + "/bucket", method="PUT")
else:
    date = email.utils.formatdate(usegmt=True)
    path = "/%s/bucket" % account
    headers = "x-ms-date:%s\nx-ms-version:2021-12-02" % date
    text = "PUT" + "\n" * 12 + headers + "\n/" + account + path + "\nrestype:container"
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(url + path + "?restype=container", method="PUT", headers={
        "x-ms-date": date, "x-ms-version": "2021-12-02", "Content-Length": "0",
        "Authorization": "SharedKey %s:%s" % (account, base64.b64encode(digest).decode())})
urllib.request.urlopen(request)
"#;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    S3,
    Azure,
}

/// A running server with one bucket. Ends when dropped.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    pub(crate) address: String,
    /// The server's own log, a line for each request.
    log: Arc<Mutex<Vec<String>>>,
    /// Gets a message for each line of the log.
    pub(crate) requests: Receiver<()>,
}

impl Server {
    /// `None`, with a message, where the servers are not installed and need not be.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/servers");
        if !folder.join(".stamp").is_file() {
            let required = std::env::var_os("HQSAM_TEST_SERVERS").is_some();
            assert!(!required, "HQSAM_TEST_SERVERS is set: run scripts/setup-servers.sh");
            skipped(kind);
            return None;
        }
        let mut command = match kind {
            Kind::S3 => {
                let mut command = Command::new("python3");
                command.env("PYTHONPATH", folder.join("moto"));
                command.args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
                command
            }
            Kind::Azure => {
                let mut command = Command::new("node");
                command.arg(folder.join("azurite/node_modules/.bin/azurite-blob"));
                command.args(["--blobHost", "127.0.0.1", "--blobPort", "0"]);
                command.args(["--inMemoryPersistence", "--disableTelemetry"]);
                command.arg("--skipApiVersionCheck");
                command
            }
        };
        command.current_dir(std::env::temp_dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, requests) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let (log, lines) = (Arc::clone(&log), lines.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    log.lock().unwrap().push(line);
                    let _over = lines.send(());
                }
            });
        }
        drop(lines);
        let address = loop {
            // An error means that the server has closed its output: it has ended.
            let said = requests.recv().map(|()| log.lock().unwrap().join("\n"));
            let said = said.unwrap_or_else(|_| panic!("{:?}", log.lock().unwrap()));
            let ready = said.lines().find(|line| {
                line.contains("Running on http://") || line.contains("successfully listens on")
            });
            if let Some(line) = ready {
                break line.split("http://").nth(1).unwrap().trim().to_owned();
            }
        };
        let server = Self { kind, child, address, log, requests };
        server.make_bucket();
        Some(server)
    }

    fn make_bucket(&self) {
        let kind = if self.kind == Kind::S3 { "s3" } else { "azure" };
        let url = format!("http://{}", self.address);
        let status = Command::new("python3")
            .args(["-c", MAKE_BUCKET, kind, &url, ACCOUNT, ACCOUNT_KEY])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// URL of a data set.
    pub(crate) fn url(&self, name: &str) -> String {
        match self.kind {
            Kind::S3 => format!("s3://bucket/{name}"),
            Kind::Azure => format!("az://bucket/{name}"),
        }
    }

    /// What `hqseg` needs in its environment to reach the server at `address`.
    pub(crate) fn environment(&self, address: &str) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{address}");
        match self.kind {
            Kind::S3 => vec![
                ("AWS_ENDPOINT_URL", endpoint),
                ("AWS_ALLOW_HTTP", "true".into()),
                ("AWS_ACCESS_KEY_ID", "key".into()),
                ("AWS_SECRET_ACCESS_KEY", "secret".into()),
                ("AWS_REGION", "us-east-1".into()),
            ],
            Kind::Azure => vec![
                ("AZURITE_BLOB_STORAGE_URL", endpoint),
                ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
            ],
        }
    }

    /// The bucket, for tests that look into it or damage it.
    pub(crate) fn store(&self) -> Box<dyn ObjectStore> {
        let endpoint = format!("http://{}", self.address);
        let options = ClientOptions::new().with_allow_http(true);
        match self.kind {
            Kind::S3 => Box::new(
                AmazonS3Builder::new()
                    .with_client_options(options)
                    .with_endpoint(endpoint)
                    .with_bucket_name("bucket")
                    .with_access_key_id("key")
                    .with_secret_access_key("secret")
                    .build()
                    .unwrap(),
            ),
            Kind::Azure => Box::new(
                MicrosoftAzureBuilder::new()
                    .with_client_options(options)
                    .with_endpoint(format!("{endpoint}/{ACCOUNT}"))
                    .with_account(ACCOUNT)
                    .with_access_key(ACCOUNT_KEY)
                    .with_container_name("bucket")
                    .build()
                    .unwrap(),
            ),
        }
    }

    /// Every object below `name` with its bytes, by relative path.
    pub(crate) fn contents(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let store = self.store();
        let prefix = Key::from(name);
        let read = async {
            let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
            let mut files = Vec::new();
            for object in objects {
                let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
                let path = object.location.as_ref().strip_prefix(&format!("{name}/")).unwrap();
                files.push((path.to_owned(), bytes.to_vec()));
            }
            files.sort();
            files
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(read)
    }

    /// Lines of the server's log that contain all of `texts`.
    pub(crate) fn logged(&self, texts: &[&str]) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }
}

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn skipped(kind: Kind) {
    eprintln!("SKIPPED: no {kind:?} server; run scripts/setup-servers.sh");
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Stands before a server and cuts connections off in the middle of an upload.
pub(crate) struct CuttingProxy {
    pub(crate) address: String,
    /// Connections still to be cut.
    pub(crate) cuts_left: Arc<AtomicUsize>,
}

impl CuttingProxy {
    /// Cuts each of the first `cuts` connections that send more than `bytes` bytes.
    pub(crate) fn start(server: &Server, cuts: usize, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts_left = Arc::new(AtomicUsize::new(cuts));
        let (left, behind) = (Arc::clone(&cuts_left), server.address.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (left, behind) = (Arc::clone(&left), behind.clone());
                std::thread::spawn(move || forward(client, &behind, &left, bytes));
            }
        });
        Self { address, cuts_left }
    }
}

fn forward(mut client: TcpStream, behind: &str, cuts_left: &AtomicUsize, bytes: usize) {
    let Ok(mut server) = TcpStream::connect(behind) else { return };
    let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut answers, &mut back);
        let _ended = back.shutdown(std::net::Shutdown::Both);
    });
    let (mut sent, mut buffer) = (0, [0; 16 << 10]);
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        sent += length;
        let take = |left: usize| left.checked_sub(1);
        if sent > bytes && cuts_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
        {
            let _ended = client.shutdown(std::net::Shutdown::Both);
            let _ended = server.shutdown(std::net::Shutdown::Both);
            return;
        }
        if server.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
