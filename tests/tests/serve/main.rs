//! `hqsam serve`: what is answered and what refused, and the page in a real browser.

mod browser;
#[path = "../../../pipeline/tests/behaviour/chromium.rs"]
mod chromium;
mod refine;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use browser::Browser;
use serde_json::{Value, json};
use tch::Device;
use trainer::model::{EncoderConfig, SamHq, VitConfig};
use trainer::weights::save_pth;

/// The running program; killed at the end of a test that has not ended it.
struct Server {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Four steps and an evaluation an epoch.
const CHANGES: &str = r#"
[train]
epochs = 3
checkpoint_every_steps = 0
[eval]
every_epochs = 1
protocols = ["box", "points:3"]
"#;

/// Writes what a training left in its folder, which is made once.
fn write_run(folder: &Path) {
    static RUN: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    let files = RUN.get_or_init(|| {
        let trained = tests::tiny(CHANGES);
        let _ = tests::succeed(trained.path(), "hqsam", &["train", "tiny.toml"]);
        let mut pending = vec![trained.path().join("run")];
        let mut files = Vec::new();
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let bytes = std::fs::read(&path).unwrap();
                files.push((path.strip_prefix(trained.path()).unwrap().to_owned(), bytes));
            }
        }
        files
    });
    for (path, bytes) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// The pictures of the run, three held-out images with two prompts after each epoch.
fn overlays() -> Vec<String> {
    let run = tempfile::tempdir().unwrap();
    write_run(run.path());
    let mut found: Vec<String> = Vec::new();
    for epoch in 1..=3 {
        let name = format!("eval/val-epoch-{epoch:03}");
        let files = run.path().join("run").join(&name).read_dir().unwrap();
        let path = |file: std::fs::DirEntry| format!("{name}/{}", file.file_name().display());
        found.extend(files.map(|file| path(file.unwrap())));
    }
    found.sort();
    found
}

/// A folder with a small model, two pictures and a run; and the program serving model and run.
fn start() -> Server {
    start_with(&["model.pth", "--run", "run"])
}

/// The same, with another model.
fn start_with(arguments: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let encoder = EncoderConfig::Vit(VitConfig {
        img_size: 256,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        window_size: 7,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    });
    let model = SamHq::random(&encoder, 4, Device::Cpu);
    save_pth(&path.join("model.pth"), &model.state_dict()).unwrap();
    let (picture, _) = dataset::draw::draw_pair(3, 0, (240, 320));
    let (width, height) = (picture.width as u32, picture.height as u32);
    let file = path.join("photo.png");
    image::save_buffer(file, &picture.pixels, width, height, image::ColorType::Rgb8).unwrap();
    image::GrayImage::new(1200, 1000).save(path.join("large.png")).unwrap();
    write_run(path);
    let mut child = Command::new(tests::program("hqsam"))
        .arg("serve")
        .args(arguments)
        .args(["--port", "0"])
        .args(["--max-upload-mib", "1", "--max-megapixels", "1"])
        .current_dir(path)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("http://").map(|(_, rest)| rest.to_owned()))
        .expect("the program says where it listens");
    let address = address.split_whitespace().next().unwrap().to_owned();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Server { child, address, folder }
}

/// A request line with headers, and a body; status, headers and body of the answer.
fn ask(server: &Server, head: &str, body: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let host = if head.contains("Host:") { "" } else { &format!("Host: {}\r\n", server.address) };
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let headers: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    let length = match headers.contains("Content-Length") || headers.contains("Transfer-Encoding") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let start = format!("{line} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n");
    stream.write_all(start.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    answer(&mut stream)
}

fn answer(stream: &mut TcpStream) -> (u16, String, String) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn everything_else_is_refused_with_a_status_and_one_line() {
    let server = start();
    let png = "POST /api/images\nContent-Type: image/png";
    let prompt = "POST /api/images/1/masks\nContent-Type: application/json";
    let large = std::fs::read(server.folder.path().join("large.png")).unwrap();
    let photo = std::fs::read(server.folder.path().join("photo.png")).unwrap();
    assert_eq!(ask(&server, png, &photo).0, 200);
    let cases: [(&str, &[u8], u16, &str); 23] = [
        ("GET /\nHost: evil.example", b"", 403, "evil.example"),
        ("GET /\nHost: localhost.evil.example:80", b"", 403, "--allow-host"),
        ("GET /\nOrigin: http://evil.example", b"", 403, "other sites"),
        ("GET /absent", b"", 404, "/absent"),
        ("GET /..%2f..%2fetc/passwd", b"", 404, "nothing"),
        ("GET /run/../../../../etc/passwd", b"", 404, ""),
        ("GET /run/..%2f..%2f..%2fetc%2fpasswd", b"", 404, "no picture"),
        ("GET /run/config.toml", b"", 404, "no picture"),
        ("GET /run/eval", b"", 404, "no picture"),
        ("POST /", b"x", 405, "POST is not allowed on /"),
        ("DELETE /api/images/1/masks", b"", 405, "DELETE"),
        ("PUT /run/curve.svg", b"x", 405, "PUT"),
        ("POST /api/images\nContent-Type: text/plain", b"x", 415, "image/jpeg"),
        ("POST /api/images", b"x", 415, "image/jpeg"),
        (png, b"no picture", 415, ""),
        (png, &large, 413, "--max-megapixels"),
        (
            "POST /api/images\nContent-Type: image/png\nContent-Length: 99000000",
            b"",
            413,
            "99000000",
        ),
        (prompt, b"{\"points\": [[1, 2]]}", 400, "no prompt"),
        (prompt, b"{\"points\": [[5, 5, 7]]}", 400, "label"),
        (prompt, b"{}", 422, "no prompt: a box, a point or a mask is needed"),
        (prompt, b"{\"box\": [400, 1, 900, 20]}", 422, "not within the image of 320 x 240"),
        (prompt, b"{\"points\": [[5, 5, 1]], \"refine\": 77}", 404, "no longer kept"),
        (
            "POST /api/images/99/masks\nContent-Type: application/json",
            b"{\"points\": [[5, 5, 1]]}",
            404,
            "open it again",
        ),
    ];
    for (head, body, status, text) in cases {
        let (found, _, answer) = ask(&server, head, body);
        assert_eq!(found, status, "{head}: {answer}");
        assert!(answer.contains(text), "{head}: {answer}");
        assert_eq!(answer.trim().lines().count(), 1, "{head}: {answer}");
    }
    // A box that was drawn over the edge ends there.
    let areas = [&b"{\"box\": [-9, 1, 900, 20]}"[..], b"{\"box\": [0, 1, 320, 20]}"].map(|body| {
        let (status, _, answer) = ask(&server, prompt, body);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["hq"]["area"].clone()
    });
    assert_eq!(areas[0], areas[1]);
    // A length that was not announced is counted.
    let chunk =
        [format!("{:x}\r\n", (1 << 20) + 1).into_bytes(), vec![b'x'; (1 << 20) + 1]].concat();
    let chunked = format!("{png}\nTransfer-Encoding: chunked");
    assert_eq!(ask(&server, &chunked, &[&chunk[..], b"\r\n0\r\n\r\n"].concat()).0, 413);
}

#[test]
fn a_picture_is_opened_and_prompted_and_a_run_is_shown() {
    let mut server = start();
    let (status, head, page) = ask(&server, "GET /", b"");
    assert!(status == 200 && page.contains("<title>HQ-SAM</title>"));
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(!page.contains("https://"), "the page loads nothing from elsewhere");
    let photo = std::fs::read(server.folder.path().join("photo.png")).unwrap();
    let (_, _, opened) = ask(&server, "POST /api/images\nContent-Type: image/png", &photo);
    let opened: Value = serde_json::from_str(&opened).unwrap();
    assert_eq!((&opened["width"], &opened["height"]), (&json!(320), &json!(240)));
    let prompt =
        json!({"box": [20, 20, 200, 180], "points": [[60, 60, 1], [10, 10, 0]], "sum": true});
    let head = format!("POST /api/images/{}/masks\nContent-Type: application/json", opened["id"]);
    let (status, _, masks) = ask(&server, &head, prompt.to_string().as_bytes());
    assert_eq!(status, 200, "{masks}");
    let masks: Value = serde_json::from_str(&masks).unwrap();
    for name in ["sam", "hq"] {
        let png =
            masks[name]["png"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
        let mask = image::load_from_memory(&png).unwrap().into_rgba8();
        assert_eq!(mask.dimensions(), (320, 240));
        let shown = mask.pixels().filter(|pixel| pixel.0[3] > 0).count();
        assert_eq!(json!(shown), masks[name]["area"], "{name}");
    }
    let (_, _, run) = ask(&server, "GET /api/run", b"");
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!((&run["name"], &run["num_steps"]), (&json!("run"), &json!(12)));
    assert_eq!(run["evaluations"].as_array().unwrap().len(), 3 * 2);
    let overlays = overlays();
    assert_eq!(overlays.len(), 3 * 2 * 3);
    assert_eq!(run["pictures"], json!([&[String::from("curve.svg")], &overlays[..]].concat()));
    let (status, head, _) = ask(&server, &format!("GET /run/{}", overlays[0]), b"");
    assert!(status == 200 && head.contains("content-type: image/jpeg") && head.contains("sandbox"));

    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(server.child.wait().unwrap().success(), "an interrupt ends it without an error");
    assert!(TcpStream::connect(&server.address).is_err());
}

#[test]
fn requests_wait_for_the_one_model_up_to_a_bound() {
    let server = start();
    let photo = std::fs::read(server.folder.path().join("photo.png")).unwrap();
    let (last, most) = photo.split_last().unwrap();
    // All but the last byte of each request first, so that they arrive together.
    let mut streams: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            let head = format!(
                "POST /api/images HTTP/1.1\r\nHost: {}\r\nContent-Type: image/png\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                server.address,
                photo.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(most).unwrap();
            stream
        })
        .collect();
    streams.iter_mut().for_each(|stream| stream.write_all(&[*last]).unwrap());
    let statuses: Vec<u16> = streams.iter_mut().map(|stream| answer(stream).0).collect();
    let count = |status: u16| statuses.iter().filter(|&&found| found == status).count();
    assert_eq!(count(200) + count(503), statuses.len(), "{statuses:?}");
    assert!(count(200) >= 8 && count(503) > 0, "{statuses:?}");
}

/// A checkpoint in a run is a model of that run.
#[test]
fn a_checkpoint_of_a_run_is_served_with_its_run() {
    let newest = "run/checkpoints/step-0000000012.safetensors";
    for model in ["run", newest] {
        let server = start_with(&[model]);
        let (_, _, about) = ask(&server, "GET /api/about", b"");
        let about: Value = serde_json::from_str(&about).unwrap();
        assert!(about["model"].as_str().unwrap().ends_with(newest), "{about}");
        let (status, _, run) = ask(&server, "GET /api/run", b"");
        assert!(status == 200 && run.contains("\"name\":\"run\""), "{run}");
        let photo = std::fs::read(server.folder.path().join("photo.png")).unwrap();
        assert_eq!(ask(&server, "POST /api/images\nContent-Type: image/png", &photo).0, 200);
    }
    let folder = tempfile::tempdir().unwrap();
    let error = tests::fail(folder.path(), "hqsam", &["serve", "absent.pth", "--run", "absent"]);
    assert!(error.contains("absent: no such folder of a run"), "{error}");
}

/// The curves of a real run, one line for each prompt, and its overlays by epoch.
fn a_run_on_the_page(browser: &mut Browser) {
    browser.wait("document.querySelectorAll('#curves svg').length === 5");
    let titles = "[...document.querySelectorAll('#curves svg')].map(e => e.ariaLabel).slice(3)";
    assert_eq!(browser.evaluate(titles), json!(["val, box: IoU, %", "val, points:3: IoU, %"]));
    // No line goes back: it would be one of two prompts.
    let steps = browser.evaluate(
        "[...document.querySelectorAll('#curves polyline')].map(line => \
         line.getAttribute('points').split(' ').map(point => +point.split(',')[0]))",
    );
    let steps: Vec<Vec<f64>> = serde_json::from_value(steps).unwrap();
    assert_eq!(steps.len(), 3 + 1 + 1 + 2 * 4);
    for line in steps {
        assert!(line.len() >= 3 && line.is_sorted_by(|left, right| left < right), "{line:?}");
    }
    let headings = "[...document.querySelectorAll('#pictures h3')].map(e => e.textContent)";
    let expected =
        ["val, after epoch 3", "val, after epoch 2", "val, after epoch 1", "Other pictures"];
    assert_eq!(browser.evaluate(headings), json!(expected));
    let counts =
        "[...document.querySelectorAll('.gallery')].map(e => e.querySelectorAll('img').length)";
    assert_eq!(browser.evaluate(counts), json!([6, 6, 6, 1]));
    let caption = browser.evaluate("document.querySelector('.gallery figcaption').textContent");
    assert!(caption.as_str().unwrap().ends_with("-box"), "{caption}");
    // Only what is seen is loaded.
    let _ =
        browser.evaluate("document.querySelectorAll('img').forEach(e => { e.loading = 'eager'; })");
}

#[test]
fn the_page_segments_what_is_clicked_at_every_width() {
    let Some(program) = chromium::installed() else { return };
    let server = start();
    let path = server.folder.path();
    let mut browser = Browser::start(&program, path);
    for width in [1280, 390] {
        browser.open(&format!("http://{}/", server.address), width);
        browser.choose("#file", &path.join("photo.png"));
        browser.wait("picture");
        browser.drag("hq", [0.4, 0.5], [0.4, 0.5]);
        browser.wait("masks.sam && masks.hq");
        let point = browser.evaluate("prompts[0].point");
        let near =
            |index: usize, expected: f64| (point[index].as_f64().unwrap() - expected).abs() < 2.0;
        assert!(near(0, 128.0) && near(1, 120.0) && point[2] == 1, "{point}");
        let _ = browser.evaluate("document.querySelector('[name=label][value=\"0\"]').click()");
        browser.drag("sam", [0.05, 0.05], [0.05, 0.05]);
        browser.drag("sam", [0.2, 0.2], [0.7, 0.8]);
        browser.wait("prompts.length === 3 && /^[0-9.]+ s$/.test(document.getElementById('status').textContent)");
        assert_eq!(browser.evaluate("prompts[1].point[2]"), 0, "a background point");
        assert_eq!(browser.evaluate("prompts[2].box.map(Math.round)"), json!([64, 48, 224, 192]));
        let facts = browser.evaluate("document.getElementById('hq-facts').textContent");
        assert!(facts.as_str().unwrap().contains("% of the picture"), "{facts}");
        refine::on_the_page(&mut browser);
        a_run_on_the_page(&mut browser);
        browser.wait("[...document.images].every(image => image.complete && image.naturalWidth)");
        let _ = browser.evaluate("scrollTo(0, 0)");
        let content = browser.evaluate("document.documentElement.scrollWidth");
        assert!(content.as_u64().unwrap() <= width.into(), "{content} px at {width}");
        let beside = browser.evaluate(
            "document.getElementById('hq').getBoundingClientRect().left > \
             document.getElementById('sam').getBoundingClientRect().right",
        );
        assert_eq!(beside, json!(width > 700), "side by side where there is room");
        let foreign = browser.evaluate(
            "performance.getEntriesByType('resource').map(e => e.name)\
             .filter(n => !n.startsWith(location.origin) && !/^(data|blob):/.test(n))",
        );
        assert_eq!(foreign, json!([]), "the page needs something outside itself");
        if let Some(folder) = std::env::var_os("HQSAM_TEST_PICTURES") {
            let file = Path::new(&folder).join(format!("serve-{width}.png"));
            std::fs::write(file, browser.picture()).unwrap();
        }
        let _ = browser.evaluate("document.getElementById('clear').click()");
        browser.wait("!masks.sam && !document.getElementById('hq-facts').textContent");
        assert_eq!(browser.evaluate("document.getElementById('refine').disabled"), true);
        // A picture that is refused is named, and the one before stays.
        browser.choose("#file", &path.join("large.png"));
        browser.wait("document.getElementById('status').classList.contains('problem')");
        let status = browser.evaluate("document.getElementById('status').textContent");
        assert!(status.as_str().unwrap().starts_with("large.png: "), "{status}");
    }
    // The refusals of the large picture are the only failed requests.
    browser.complaints.retain(|line| !line.contains("413"));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
