//! Configurations: any text is a build configuration or an error of one line, and so is any
//! override.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pipeline::BuildConfig;
use pipeline::config::parse_config;

fuzz_target!(|text: &str| {
    let (text, argument) = text.split_once('\0').unwrap_or((text, ""));
    let overrides = if argument.is_empty() { vec![] } else { vec![argument.to_owned()] };
    if let Err(error) = parse_config::<BuildConfig>(Path::new("build.toml"), text, &overrides) {
        assert!(!error.to_string().is_empty());
    }
});
