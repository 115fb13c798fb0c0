//! How the C library's allocator has to be set for tensors on CPUs.
//!
//! By default glibc gives every large block back to the kernel when it is freed and faults each of
//! its pages in again at the next allocation. A forward pass frees and allocates blocks of tens of
//! megabytes hundreds of times; keeping them made a training step of the TinyViT encoder about
//! 1.6 times faster on two cores, a fifth of whose time had gone to page faults. The settings are
//! read when a process starts, hence as environment variables.

use std::process::Command;

/// Variables and values: never map single blocks, never trim, ask for huge pages.
const SETTINGS: [(&str, &str); 4] = [
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ("MALLOC_TOP_PAD_", "67108864"),
    ("THP_MEM_ALLOC_ENABLE", "1"),
];

/// The command that starts this process again with the settings, or `None` when they are there
/// already or the user has chosen some.
#[must_use]
pub fn restart_with_settings() -> Option<Command> {
    if SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(std::env::args_os().skip(1)).envs(SETTINGS);
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restarted_process_does_not_restart_again() {
        let command = restart_with_settings().expect("tests run without the settings");
        let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        assert!(SETTINGS.iter().all(|(name, _)| set.contains(&(*name).into())));
    }
}
