//! An HTTP/1.1 server on a local port that answers as a test says: with ranges or without, slowly,
//! wrongly, or breaking off in the middle. It counts what it sends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The target as sent: a path, or a whole URL where the server is used as a proxy.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// How many requests came before it.
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the server sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Announced length, where it is not the body's.
    announced: Option<u64>,
    /// Ends the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Falls silent, connection open, after so many bytes of the body.
    silent_after: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn file(content: &[u8]) -> Self {
        Self { body: content.to_vec(), ..Self::new(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn announcing(mut self, length: u64) -> Self {
        self.announced = Some(length);
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(crate) fn silent_after(mut self, bytes: usize) -> Self {
        self.silent_after = Some(bytes);
        self
    }

    /// A part of a file, of more than a few bytes.
    pub(crate) fn is_part(&self) -> bool {
        self.status == 206 && self.body.len() > 1000
    }

    /// With another bit in the middle of the body.
    pub(crate) fn flipped(mut self) -> Self {
        let middle = self.body.len() / 2;
        self.body[middle] ^= 1;
        self
    }

    /// Whole or in part, as `Range` and `If-Range` ask; without a tag nothing tells versions apart.
    pub(crate) fn ranged(request: &Request, content: &[u8], tag: Option<&str>) -> Self {
        let tagged = |answer: Self| match tag {
            Some(tag) => answer.header("etag", tag),
            None => answer,
        };
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let same = request.header("if-range").is_none_or(|wanted| Some(wanted) == tag);
        let Some((start, last)) = range.filter(|_| same).and_then(|range| range.split_once('-'))
        else {
            return tagged(Self::file(content));
        };
        let length = content.len();
        let (start, end) = match (start.parse::<usize>(), last.parse::<usize>()) {
            (Ok(start), Ok(last)) => (start, length.min(last + 1)),
            (Ok(start), Err(_)) => (start, length),
            (Err(_), suffix) => (length.saturating_sub(suffix.unwrap()), length),
        };
        if start >= length {
            return tagged(Self::new(416).header("content-range", &format!("bytes */{length}")));
        }
        let range = format!("bytes {start}-{}/{length}", end - 1);
        let part = Self { body: content[start..end].to_vec(), ..Self::new(206) };
        tagged(part.header("content-range", &range))
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    body_bytes: u64,
    /// Connections that have fallen silent stay open until the server goes.
    silent: Vec<TcpStream>,
}

pub(crate) struct FileServer {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

impl FileServer {
    pub(crate) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let (handler, shared): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&shared));
                // A client that goes away is what some tests are about.
                thread::spawn(move || drop(answer(stream, &*handler, &log)));
            }
        });
        Self { address, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// Bytes of bodies sent so far.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).body_bytes
    }
}

fn answer(stream: TcpStream, handler: &Handler, log: &Mutex<Log>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let request = {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request { target, headers, number: log.requests.len() };
        log.requests.push(request.clone());
        request
    };
    send(stream, &handler(&request), log)
}

fn send(mut stream: TcpStream, answer: &Answer, log: &Mutex<Log>) -> std::io::Result<()> {
    let length = answer.announced.unwrap_or(answer.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} Test\r\nconnection: close\r\n", answer.status);
    head += &format!("content-length: {length}\r\n");
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let end = answer.cut.or(answer.silent_after).unwrap_or(usize::MAX).min(answer.body.len());
    for piece in answer.body[..end].chunks(16 << 10) {
        stream.write_all(piece)?;
        log.lock().unwrap_or_else(PoisonError::into_inner).body_bytes += piece.len() as u64;
    }
    if answer.silent_after.is_some() {
        log.lock().unwrap_or_else(PoisonError::into_inner).silent.push(stream);
        return Ok(());
    }
    stream.shutdown(Shutdown::Write)
}
