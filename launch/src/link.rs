//! A connection between two launchers: JSON lines, and empty lines as signs of life.
//!
//! A cut cable sends no farewell. So each side sends something all the time, and takes the
//! connection for lost when it has heard nothing for a while.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message comes near this; something that is no launcher may send anything.
pub(crate) const LONGEST_LINE: u64 = 1 << 20;

/// The sending half. The connection closes with the last of its copies.
#[derive(Clone)]
pub(crate) struct Sending(Arc<Mutex<TcpStream>>);

/// The receiving half.
pub(crate) struct Receiving {
    stream: BufReader<TcpStream>,
    silence: Duration,
}

/// Both halves of a connection that counts as lost after `silence`.
pub(crate) fn open(stream: TcpStream, silence: Duration) -> std::io::Result<(Sending, Receiving)> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    let reading = stream.try_clone()?;
    let sending = Arc::new(Mutex::new(stream));
    let beating = Arc::downgrade(&sending);
    let beat = move || {
        loop {
            std::thread::sleep(silence / 4);
            let Some(stream) = beating.upgrade() else { return };
            if write(&stream, b"\n").is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("link".to_owned()).spawn(beat)?;
    Ok((Sending(sending), Receiving { stream: BufReader::new(reading), silence }))
}

fn write(stream: &Mutex<TcpStream>, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    let result = stream.write_all(bytes);
    if result.is_err() {
        // Part of a line may have gone out: nothing sensible can follow, and the reader of this
        // connection is to notice now.
        let _ = stream.shutdown(Shutdown::Both);
    }
    result
}

impl Sending {
    /// Sends a message. A failure is seen by the receiving half as well.
    pub(crate) fn send(&self, message: &impl Serialize) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = write(&self.0, &line);
        }
    }

    /// Ends the connection for both halves.
    pub(crate) fn close(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not connected any more: as wanted.
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Write);
    }
}

impl Receiving {
    /// The next message, or why there will be none.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut self.stream).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) => return Err("it closed the connection; was it killed?".to_owned()),
                Ok(_) if line == b"\n" => {}
                Ok(_) => {
                    return serde_json::from_slice(&line).map_err(|error| {
                        format!("it sent something else than a message: {error}")
                    });
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(format!("nothing heard from it for {:?}", self.silence));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair(silence: Duration) -> (TcpStream, Receiving, Sending) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (sending, receiving) = open(listener.accept().unwrap().0, silence).unwrap();
        (peer, receiving, sending)
    }

    #[test]
    fn silence_garbage_and_a_farewell_are_told_apart() {
        let (_peer, mut receiving, _sending) = pair(Duration::from_millis(50));
        assert_eq!(receiving.next::<u32>().unwrap_err(), "nothing heard from it for 50ms");
        let (mut peer, mut receiving, _sending) = pair(Duration::from_secs(30));
        peer.write_all(b"\n\n7\nGET / HTTP/1.1\n").unwrap();
        assert_eq!(receiving.next::<u32>(), Ok(7));
        assert!(receiving.next::<u32>().unwrap_err().starts_with("it sent something else"));
        drop(peer);
        assert!(receiving.next::<u32>().unwrap_err().starts_with("it closed the connection"));
    }

    #[test]
    fn an_idle_connection_stays_alive_by_itself() {
        let silence = Duration::from_millis(200);
        let (peer, mut receiving, _sending) = pair(silence);
        let (other, mut answers) = open(peer, silence).unwrap();
        let reader = std::thread::spawn(move || receiving.next::<u32>());
        // Far longer than the silence that would end it; the wait for it is the test.
        let started = std::time::Instant::now();
        while started.elapsed() < 5 * silence {
            std::thread::park_timeout(silence);
        }
        other.send(&9);
        assert_eq!(reader.join().unwrap(), Ok(9));
        drop(_sending);
        assert!(answers.next::<u32>().is_err());
    }
}
