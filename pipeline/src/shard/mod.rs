//! One Parquet file: how its rows are laid out, written, and read one at a time.

mod guard;
mod layout;
mod ranges;
mod reader;
mod writer;

pub use guard::panic_becomes_an_error;
pub(crate) use layout::LAYOUT_VERSION;
pub use ranges::{JOINED_BYTES, RangeReader};
pub use reader::{ShardError, ShardReader, StoredSample};
pub use writer::{ShardWriter, WrittenShard};
