//! Every odd mode of image and mask files, and bytes that are none.

mod images;
mod masks;
mod photographs;
mod refusals;
mod support;
