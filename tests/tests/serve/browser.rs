//! Chromium, driven through its pipe: the DevTools protocol as JSON between zero bytes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    next_id: u64,
    /// What the page complained about: exceptions and entries of its log.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    /// Starts a browser whose profile is below `folder`.
    pub(crate) fn start(program: &Path, folder: &Path) -> Self {
        // It reads from the third file and writes to the fourth; a shell can give it ours.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--remote-debugging-pipe", "--window-size=1400,1000"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let output = BufReader::new(output);
        let mut browser =
            Self { child, input, output, session: None, next_id: 1, complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            let _ = browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the protocol and waits for its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut bytes = Vec::new();
            assert!(self.output.read_until(0, &mut bytes).unwrap() > 0, "the browser has ended");
            let mut answer: Value = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap();
            match answer["method"].as_str() {
                Some("Runtime.exceptionThrown" | "Log.entryAdded") => {
                    self.complaints.push(answer["params"].to_string());
                }
                Some(_) => {}
                None if answer["id"] == id => {
                    assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                    return answer["result"].take();
                }
                None => {}
            }
        }
    }

    /// Opens an address in a window of that width.
    pub(crate) fn open(&mut self, url: &str, width: u32) {
        let _ = self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}),
        );
        let _ = self.call("Page.navigate", json!({"url": url}));
        self.wait(
            "document.readyState === 'complete' && document.getElementById('model')?.textContent",
        );
    }

    /// The value of an expression, a promise's when it is one.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&mut self, condition: &str) {
        let _ = self.evaluate(&format!(
            "new Promise(done => {{ const look = () => ({condition}) ? done(true) : \
             setTimeout(look, 20); look(); }})"
        ));
    }

    /// Chooses a file in the input `selector`.
    pub(crate) fn choose(&mut self, selector: &str, file: &Path) {
        let document = self.call("DOM.getDocument", json!({}));
        let query = json!({"nodeId": document["root"]["nodeId"], "selector": selector});
        let node = self.call("DOM.querySelector", query);
        let files = json!({"files": [file], "nodeId": node["nodeId"]});
        let _ = self.call("DOM.setFileInputFiles", files);
    }

    /// Moves the pressed mouse from one place of an element to another, in parts of its sides.
    pub(crate) fn drag(&mut self, id: &str, from: [f64; 2], to: [f64; 2]) {
        let frame = self.evaluate(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.scrollIntoView({{block: 'center'}}); \
             const f = e.getBoundingClientRect(); return [f.left, f.top, f.width, f.height]; }})()"
        ));
        let [left, top, width, height] = [0, 1, 2, 3].map(|index| frame[index].as_f64().unwrap());
        let steps = [("mousePressed", from), ("mouseMoved", to), ("mouseReleased", to)];
        for (kind, [x, y]) in steps {
            let _ = self.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": left + x * width, "y": top + y * height,
                       "button": "left", "buttons": 1, "clickCount": 1}),
            );
        }
    }

    /// The whole page as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", params);
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
