//! A cable between two machines: two network namespaces and a veth pair.
//!
//! Takes root and `ip`. Skipped with a message otherwise, unless LAUNCH_TEST_NAMESPACES=required.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Node 0's address and a port.
pub(crate) const ENDPOINT: &str = "10.177.0.1:29400";

/// Two namespaces, joined; removed with the value.
pub(crate) struct Cable {
    name: String,
}

impl Cable {
    /// `None` where the machine does not allow it.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The names of interfaces are at most 15 bytes.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cable = Self { name: format!("hl{}-{number}", std::process::id()) };
        let made = (0..2).all(|side| ip(&["netns", "add", &cable.side(side)]))
            && ip(&[
                "link",
                "add",
                "eth",
                "netns",
                &cable.side(0),
                "type",
                "veth",
                "peer",
                "name",
                "eth",
                "netns",
                &cable.side(1),
            ])
            && (0..2).all(|side| {
                let name = cable.side(side);
                let address = format!("10.177.0.{}/24", side + 1);
                ip(&["-n", &name, "addr", "add", &address, "dev", "eth"])
                    && ip(&["-n", &name, "link", "set", "lo", "up"])
                    && ip(&["-n", &name, "link", "set", "eth", "up"])
            });
        if made {
            return Some(cable);
        }
        assert!(
            std::env::var("LAUNCH_TEST_NAMESPACES").as_deref() != Ok("required"),
            "network namespaces cannot be made here"
        );
        skipped();
        None
    }

    fn side(&self, side: usize) -> String {
        format!("{}{}", self.name, ["a", "b"][side])
    }

    /// Down: both sides stay up and hear nothing.
    pub(crate) fn set(&self, state: &str) {
        assert!(ip(&["-n", &self.side(1), "link", "set", "eth", state]));
    }

    /// A program on one side.
    pub(crate) fn command(&self, side: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.side(side)]).arg(program);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for side in 0..2 {
            let _ = ip(&["netns", "del", &self.side(side)]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn skipped() {
    println!("skipped: network namespaces take root and the program `ip`");
}
