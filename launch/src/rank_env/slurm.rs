//! Slurm's compressed lists.

/// The first host of a list such as `gpu[003-007,9],login1`, as Slurm writes them.
pub(super) fn first_host(list: &str) -> Result<String, &'static str> {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some(character) = rest.chars().next() {
        match character {
            ',' => break,
            '[' => {
                let (ranges, after) = rest[1..].split_once(']').ok_or("a bracket is not closed")?;
                let first = ranges.split([',', '-']).next().unwrap_or_default();
                if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err("brackets hold numbers and ranges");
                }
                host.push_str(first);
                rest = after;
            }
            ']' => return Err("a bracket is not opened"),
            _ => {
                host.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    if host.is_empty() { Err("no host is named") } else { Ok(host) }
}

/// Tasks of each node, from `4(x2),3`.
pub(super) fn tasks_per_node(list: &str) -> Option<Vec<usize>> {
    let mut tasks = Vec::new();
    for part in list.trim().split(',') {
        let (count, nodes) = match part.split_once("(x") {
            Some((count, nodes)) => (count, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        // More nodes than any cluster has: a damaged variable must not cost memory.
        if nodes > 1 << 20 {
            return None;
        }
        tasks.extend(std::iter::repeat_n(count.parse::<usize>().ok()?, nodes));
    }
    Some(tasks)
}

/// Ports of `12000-12003,12010`, at least one.
pub(super) fn reserved_ports(list: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last]: [u16; 2] = [first.parse().ok()?, last.parse().ok()?];
        if first == 0 || last < first {
            return None;
        }
        ports.extend(first..=last);
    }
    Some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_every_form() {
        for (list, expected) in [
            ("node1", "node1"),
            ("login,node1", "login"),
            ("gpu[003-007,9],login1", "gpu003"),
            ("rack[2,5]n[08-11]-ib,x", "rack2n08-ib"),
            ("10.0.0.7", "10.0.0.7"),
        ] {
            assert_eq!(first_host(list).as_deref(), Ok(expected));
        }
        for list in ["", ",a", "gpu[1-2", "gpu1]", "gpu[]", "gpu[a-b]"] {
            assert!(first_host(list).is_err(), "{list}");
        }
    }

    #[test]
    fn tasks_of_every_node() {
        assert_eq!(tasks_per_node("4(x2),3"), Some(vec![4, 4, 3]));
        assert_eq!(tasks_per_node("1"), Some(vec![1]));
        for list in ["", "x", "2(x", "2(x9999999999)", "2,,1"] {
            assert_eq!(tasks_per_node(list), None, "{list}");
        }
    }

    #[test]
    fn ports_of_every_form() {
        assert_eq!(reserved_ports("12000-12002,12010"), Some(vec![12000, 12001, 12002, 12010]));
        assert_eq!(reserved_ports("65535"), Some(vec![65535]));
        for list in ["", "0-3", "12000-", "12003-12000", "12000,,12001", "70000", "(null)"] {
            assert_eq!(reserved_ports(list), None, "{list}");
        }
    }
}
