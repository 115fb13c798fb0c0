//! What the pipeline promises, tried on small collections written for each test and, where it is
//! at hand, on real ones.

mod building;
mod configs;
mod describing;
mod interop;
mod layout;
mod licences;
mod page;
mod process;
mod raw;
mod reading;
mod streaming;
mod support;
