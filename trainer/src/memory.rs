//! Memory of this process.

/// Resident memory in bytes now; `None` where the system does not tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The line `VmRSS:    123456 kB` of `/proc/self/status`.
fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_some_memory() {
        assert_eq!(parse("Name:\thqsam\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse("Name:\thqsam\n"), None);
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
