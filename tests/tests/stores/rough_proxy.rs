//! Stands before a server and lets it look unreliable: connections are reset, answers break off or
//! come late, or everything is refused. Faults are drawn from a seed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tests::Dice;

/// Bytes that are forwarded at once.
const PIECE: usize = 16 << 10;
/// What everything gets while the store refuses; clients do not repeat such a request.
const REFUSAL: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// How often and how badly. Shares are of pieces, in thousandths.
#[derive(Clone, Copy)]
pub(crate) struct Roughness {
    pub(crate) resets: u64,
    pub(crate) delays: u64,
    pub(crate) longest_delay: Duration,
}

/// No faults but refusals.
pub(crate) const SMOOTH: Roughness =
    Roughness { resets: 0, delays: 0, longest_delay: Duration::ZERO };

pub(crate) struct RoughProxy {
    pub(crate) address: String,
    line: Arc<Line>,
}

struct Line {
    roughness: Roughness,
    dice: Mutex<Dice>,
    refuses: AtomicBool,
    resets: AtomicU64,
    delays: AtomicU64,
    bytes: AtomicU64,
}

impl RoughProxy {
    pub(crate) fn start(behind: &str, roughness: Roughness, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Arc::new(Line {
            roughness,
            dice: Mutex::new(Dice::new(seed)),
            refuses: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            delays: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let (shared, behind) = (Arc::clone(&line), behind.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (line, behind) = (Arc::clone(&shared), behind.clone());
                std::thread::spawn(move || line.forward(client, &behind));
            }
        });
        Self { address, line }
    }

    /// From now on, whether everything is refused.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.line.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Connections reset, pieces delayed and bytes forwarded so far.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (read(&self.line.resets), read(&self.line.delays), read(&self.line.bytes))
    }
}

impl Line {
    /// Whether the connection is reset instead of forwarding the next piece; waits where that is late.
    fn resets_now(&self) -> bool {
        let (reset, delay) = {
            let mut dice = self.dice.lock().unwrap();
            let is_late = dice.below(1000) < self.roughness.delays;
            let longest = self.roughness.longest_delay.as_millis() as u64;
            let delay = is_late.then(|| Duration::from_millis(dice.below(longest + 1)));
            (dice.below(1000) < self.roughness.resets, delay)
        };
        if let Some(delay) = delay {
            self.delays.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(delay);
        }
        if reset {
            self.resets.fetch_add(1, Ordering::SeqCst);
        }
        reset
    }

    fn forward(self: Arc<Self>, mut client: TcpStream, behind: &str) {
        let Ok(mut server) = TcpStream::connect(behind) else { return };
        let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        let line = Arc::clone(&self);
        std::thread::spawn(move || {
            let mut piece = [0; PIECE];
            while let Ok(length @ 1..) = answers.read(&mut piece) {
                if line.resets_now() {
                    let _ended = back.shutdown(Shutdown::Both);
                    let _ended = answers.shutdown(Shutdown::Both);
                    return;
                }
                line.bytes.fetch_add(length as u64, Ordering::SeqCst);
                if back.write_all(&piece[..length]).is_err() {
                    break;
                }
            }
            let _ended = back.shutdown(Shutdown::Write);
        });
        let mut piece = [0; PIECE];
        // Looked at before it is taken: a connection that is closed with bytes unread is reset.
        while let Ok(1..) = client.peek(&mut piece[..1]) {
            if self.refuses.load(Ordering::SeqCst) {
                let _refused = client.write_all(REFUSAL);
                // The rest of the request is taken, so that the answer is not lost in a reset.
                while let Ok(1..) = client.read(&mut piece) {}
                break;
            }
            if self.resets_now() {
                break;
            }
            let Ok(length @ 1..) = client.read(&mut piece) else { break };
            self.bytes.fetch_add(length as u64, Ordering::SeqCst);
            if server.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ended = server.shutdown(Shutdown::Both);
    }
}
