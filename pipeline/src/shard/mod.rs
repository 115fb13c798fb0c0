//! One Parquet file: how its rows are laid out, written, and read one at a time.

mod layout;
mod reader;
mod writer;

pub(crate) use layout::LAYOUT_VERSION;
pub use reader::{RangeReader, ShardError, ShardReader, StoredSample};
pub use writer::{ShardWriter, WrittenShard};
