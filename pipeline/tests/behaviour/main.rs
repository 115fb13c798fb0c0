//! What the pipeline promises, tried on small collections written for each test and, where it is
//! at hand, on real ones.

mod browser;
mod building;
mod chromium;
mod configs;
mod damage;
mod describing;
mod fetch_terms;
mod fetching;
mod file_server;
mod forms;
mod inputs;
mod interop;
mod kills;
mod layout;
mod leaks;
mod licences;
mod natives;
mod odd_files;
mod options;
mod page;
mod permissions;
mod process;
mod ranks;
mod raw;
mod raw_stores;
mod reading;
mod row_cache;
mod servers;
mod stores;
mod streaming;
mod support;
