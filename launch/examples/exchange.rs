//! Ranks that sum a number over TCP in every step, for trying out a launcher or a cluster:
//!
//! ```text
//! launch --procs 2 --max-restarts 3 -- target/release/examples/exchange 1000 /tmp/exchange
//! ```
//!
//! Every step, each rank sends `step + rank` to rank 0, which sends the sum back; every rank
//! checks it and notes the step in FOLDER. Started again, it goes on from the least step that
//! every rank noted. It is a training in small: what it needs from a launcher is what a training
//! needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use launch::rank_env::{Heartbeat, RankEnv};

/// How long ranks wait for each other.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a step takes besides.
const STEP: Duration = Duration::from_millis(5);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [steps, folder] => match steps.parse() {
            Ok(steps) => run(steps, Path::new(folder)),
            Err(_) => Err("STEPS is not a number".into()),
        },
        _ => Err("usage: exchange STEPS FOLDER".into()),
    };
    match outcome {
        Ok(line) => {
            let _ = writeln!(std::io::stderr(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(steps: u64, folder: &Path) -> Result<String, Failure> {
    let env = RankEnv::from_env()?.ok_or("no launcher started this process")?;
    let rank = env.rank as u64;
    let mut peers = if env.rank == 0 { accept(&env)? } else { vec![connect(&env)?] };
    let heartbeat = Heartbeat::from_env();
    let mine = folder.join(format!("{rank}"));
    let done = read(&mine);
    // The ranks may have been ended between their notes: all go on from the least.
    let first = exchange(&mut peers, rank, done, |values| values.iter().copied().min())?;
    for step in first..steps {
        heartbeat.beat(step);
        let sum = exchange(&mut peers, rank, step + rank, |values| Some(values.iter().sum()))?;
        let world = env.world_size as u64;
        let expected = world * step + world * (world - 1) / 2;
        if sum != expected {
            return Err(
                format!("rank {rank}, step {step}: the sum is {sum}, not {expected}").into()
            );
        }
        write(&mine, step + 1)?;
        std::thread::sleep(STEP);
    }
    Ok(format!("rank {rank}: steps {first} to {steps} are done"))
}

/// What `combine` makes of every rank's value, on every rank.
fn exchange(
    peers: &mut [(usize, TcpStream)],
    rank: u64,
    value: u64,
    combine: impl Fn(&[u64]) -> Option<u64>,
) -> Result<u64, Failure> {
    let named = |peer: usize, error: std::io::Error| {
        format!("rank {rank}: rank {peer} does not answer: {error}")
    };
    if rank > 0 {
        let [(peer, stream)] = peers else { return Err("rank 0 is not connected".into()) };
        stream.write_all(&value.to_le_bytes()).map_err(|error| named(*peer, error))?;
        return Ok(receive(stream).map_err(|error| named(*peer, error))?);
    }
    let mut values = vec![value];
    for (peer, stream) in peers.iter_mut() {
        values.push(receive(stream).map_err(|error| named(*peer, error))?);
    }
    let combined = combine(&values).ok_or("there are no values")?;
    for (peer, stream) in peers {
        stream.write_all(&combined.to_le_bytes()).map_err(|error| named(*peer, error))?;
    }
    Ok(combined)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn accept(env: &RankEnv) -> std::io::Result<Vec<(usize, TcpStream)>> {
    let listener = TcpListener::bind(("0.0.0.0", env.master_port))?;
    let mut peers = Vec::new();
    while peers.len() + 1 < env.world_size {
        let mut stream = prepared(listener.accept()?.0)?;
        let peer = usize::try_from(receive(&mut stream)?).unwrap_or_default();
        peers.push((peer, stream));
    }
    Ok(peers)
}

fn connect(env: &RankEnv) -> std::io::Result<(usize, TcpStream)> {
    let until = Instant::now() + TIMEOUT;
    let stream = loop {
        match TcpStream::connect((env.master_addr.as_str(), env.master_port)) {
            Err(_) if Instant::now() < until => std::thread::sleep(STEP),
            outcome => break outcome?,
        }
    };
    let mut stream = prepared(stream)?;
    stream.write_all(&(env.rank as u64).to_le_bytes())?;
    Ok((0, stream))
}

fn prepared(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn write(path: &Path, step: u64) -> std::io::Result<()> {
    let staged = PathBuf::from(format!("{}.staged", path.display()));
    std::fs::write(&staged, format!("{step}\n"))?;
    std::fs::rename(staged, path)
}
