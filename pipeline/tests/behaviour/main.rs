//! What the pipeline promises, tried on small collections written for each test and, where it is
//! at hand, on real ones.

mod building;
mod configs;
mod kills;
mod layout;
mod process;
mod ranks;
mod raw;
mod reading;
mod servers;
mod stores;
mod streaming;
mod support;
