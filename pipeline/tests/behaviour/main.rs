//! What the pipeline promises, tried on small collections written for each test and, where it is
//! at hand, on real ones.

mod building;
mod configs;
mod damage;
mod layout;
mod odd_files;
mod options;
mod process;
mod raw;
mod reading;
mod streaming;
mod support;
