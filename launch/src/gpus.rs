//! How many GPUs a process of this machine may use.

use std::path::Path;

/// GPUs that the driver shows under `root` (`/` outside tests), less those that
/// `CUDA_VISIBLE_DEVICES` hides.
pub fn visible(root: &Path, cuda_visible_devices: Option<String>) -> usize {
    let present = present(root);
    let Some(list) = cuda_visible_devices else { return present };
    // CUDA reads the list up to the first entry that is no device.
    let valid = |entry: &str| match entry.parse::<usize>() {
        Ok(index) => index < present,
        Err(_) => entry.starts_with("GPU-") || entry.starts_with("MIG-"),
    };
    let entries = list.split(',').map(str::trim);
    if present == 0 { 0 } else { entries.take_while(|entry| valid(entry)).count() }
}

fn present(root: &Path) -> usize {
    let driver = entries(&root.join("proc/driver/nvidia/gpus"), |_| true);
    // In containers the driver's folder may list all GPUs and /dev only ours, or be hidden.
    let devices = entries(&root.join("dev"), |name| {
        name.strip_prefix("nvidia")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    });
    match (driver, devices) {
        (Some(driver), Some(devices)) if devices > 0 => driver.min(devices),
        (driver, devices) => driver.or(devices).unwrap_or(0),
    }
}

fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<usize> {
    let names = std::fs::read_dir(folder).ok()?;
    Some(names.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_driver_shows_and_the_list_leaves() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(visible(root.path(), None), 0);
        let dev = root.path().join("dev");
        std::fs::create_dir(&dev).unwrap();
        for name in ["nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.join(name), "").unwrap();
        }
        for (list, expected) in [
            (None, 3),
            (Some(""), 0),
            (Some("0,2"), 2),
            (Some("0,-1,2"), 1),
            (Some("7"), 0),
            (Some("GPU-8932f937"), 1),
        ] {
            assert_eq!(visible(root.path(), list.map(str::to_owned)), expected, "{list:?}");
        }
    }
}
