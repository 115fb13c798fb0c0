//! How a shard is laid out, so that one row can be fetched with a few small range reads.
//!
//! ```text
//! shard
//! └─ row group        at most 100 rows and about 32 MiB
//!    ├─ sample_id, source, image_sha256, mask_sha256, image.bytes, mask.bytes
//!    │                one page a row, plain: what a training stream reads
//!    └─ other facts   one page a row group, dictionary and Snappy: what a query engine scans
//! footer              offset index of every page
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{Fields, Schema, SchemaRef};
use dataset::schema::arrow_schema;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

/// Goes up with every change of the layout, of the writer, or of what is made of a mask file, so that a
/// rebuild replaces shards that were written by the older one.
pub(crate) const LAYOUT_VERSION: u32 = 5;

/// Largest row group, in bytes of images and masks. One larger row makes a group of its own.
pub(super) const ROW_GROUP_BYTES: usize = 32 << 20;

/// The leaf columns a stream reads for one sample, each with one page a row.
pub(super) const STREAMED_COLUMNS: [&str; 6] =
    ["sample_id", "source", "image_sha256", "mask_sha256", "image.bytes", "mask.bytes"];

/// The two columns whose values are whole files.
const BINARY_COLUMNS: [&str; 2] = ["image.bytes", "mask.bytes"];

pub(super) fn column_path(dotted: &str) -> ColumnPath {
    ColumnPath::new(dotted.split('.').map(str::to_owned).collect())
}

pub(super) fn writer_properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("hqseg ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(schema_metadata()))
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // The row limit of a page is checked between write batches only.
        .set_write_batch_size(1);
    for name in STREAMED_COLUMNS {
        let column = column_path(name);
        properties = properties
            .set_column_data_page_row_count_limit(column.clone(), 1)
            .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
            // A dictionary page would be one more range to fetch for every row.
            .set_column_dictionary_enabled(column, false);
    }
    for name in BINARY_COLUMNS {
        // The smallest and largest file of a group tell nobody anything.
        properties =
            properties.set_column_statistics_enabled(column_path(name), EnabledStatistics::None);
    }
    properties.build()
}

/// The schema as stored: every column may be null, although none of the required ones ever is.
/// The Hugging Face library compares each column with its own, nullable one and reads `image` and
/// `mask` as plain structs where they differ.
pub(super) fn stored_schema() -> SchemaRef {
    let schema = arrow_schema();
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), schema.metadata().clone()))
}

/// The Arrow schema's metadata as the footer's own: readers that do not decode the embedded Arrow
/// schema look for it there.
fn schema_metadata() -> Vec<KeyValue> {
    let schema = arrow_schema();
    let mut pairs: Vec<KeyValue> = Vec::new();
    for (key, value) in schema.metadata().iter().collect::<BTreeMap<_, _>>() {
        pairs.push(KeyValue::new(key.clone(), value.clone()));
    }
    pairs
}
