//! One row per pair: the only contract between the writer and the readers of shards.
//!
//! `image` and `mask` are `struct<bytes: binary, path: utf8>` and the schema metadata declares
//! them as images the way Hugging Face's `datasets` does, so that library, DuckDB, Spark and
//! pandas read a shard as it is.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{
    BinaryBuilder, FixedSizeListBuilder, StringBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use thiserror::Error;

/// Version of the columns and their meaning; it goes up with every change of either.
pub const SCHEMA_VERSION: u32 = 1;

/// Bytes that one Arrow binary column can hold: its offsets are 32-bit.
const MAX_COLUMN_BYTES: usize = i32::MAX as usize;

/// Key of the schema metadata under which `datasets` looks for its features.
const FEATURES_KEY: &str = "huggingface";

/// One pair with its facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `{source}/{name}`, unique in a data set.
    pub sample_id: String,
    /// Name of the source in the build configuration.
    pub source: String,
    /// For instance `train` or `val`.
    pub split: String,
    /// Class of the object where the collection has one.
    pub class: Option<String>,
    /// Rows of image and mask.
    pub height: u32,
    /// Columns of image and mask.
    pub width: u32,
    /// Mask pixels above 128.
    pub foreground_pixels: u64,
    /// Tight box around them, inclusive pixel indices.
    pub box_xyxy: [u32; 4],
    /// Lower-case hexadecimal digest of the image file.
    pub image_sha256: String,
    /// Lower-case hexadecimal digest of the mask file.
    pub mask_sha256: String,
    /// See [`crate::verify::perceptual_hash`].
    pub perceptual_hash: u64,
    /// Licence of the source, as given in the build configuration.
    pub license: Option<String>,
    /// The image file (JPEG or PNG).
    pub image_bytes: Vec<u8>,
    /// File name of the image.
    pub image_path: String,
    /// The mask as 8-bit grey PNG, 0..255.
    pub mask_bytes: Vec<u8>,
    /// File name of the mask.
    pub mask_path: String,
}

/// A record batch that is none of ours, or rows that fit none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A column is absent.
    #[error(
        "column `{column}` is missing: the file was not written by this program's schema version {SCHEMA_VERSION}"
    )]
    MissingColumn {
        /// Its name.
        column: &'static str,
    },
    /// A column has another type.
    #[error("column `{column}` has type {found}, expected {expected}")]
    ColumnType {
        /// Its name.
        column: &'static str,
        /// Type in this schema.
        expected: DataType,
        /// Type in the batch.
        found: DataType,
    },
    /// A value that is never absent is.
    #[error("column `{column}` has no value in row {row} of the batch: the file is damaged")]
    MissingValue {
        /// Its name.
        column: &'static str,
        /// Row within the batch.
        row: usize,
    },
    /// More than one batch can hold.
    #[error(
        "the `{column}` files of {rows} rows have {bytes} bytes, above 2 GiB: use fewer rows a group"
    )]
    TooLarge {
        /// Its name.
        column: &'static str,
        /// Rows given.
        rows: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// Arrow refused the columns.
    #[error("cannot make a record batch")]
    Arrow(#[from] arrow_schema::ArrowError),
}

/// The columns, in the order of [`Row`], with the features of `datasets` in the metadata.
#[must_use]
pub fn arrow_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let required = |name: &str, data_type: DataType| Field::new(name, data_type, false);
        let optional = |name: &str, data_type: DataType| Field::new(name, data_type, true);
        let fields = vec![
            required("image", DataType::Struct(file_fields())),
            required("mask", DataType::Struct(file_fields())),
            required("sample_id", DataType::Utf8),
            required("source", DataType::Utf8),
            required("split", DataType::Utf8),
            optional("class", DataType::Utf8),
            required("height", DataType::UInt32),
            required("width", DataType::UInt32),
            required("foreground_pixels", DataType::UInt64),
            required("box_xyxy", DataType::FixedSizeList(box_item(), 4)),
            required("image_sha256", DataType::Utf8),
            required("mask_sha256", DataType::Utf8),
            required("perceptual_hash", DataType::UInt64),
            optional("license", DataType::Utf8),
        ];
        let metadata = HashMap::from([(FEATURES_KEY.to_owned(), features().to_string())]);
        Arc::new(Schema::new_with_metadata(fields, metadata))
    });
    Arc::clone(&SCHEMA)
}

/// Nullable items are what `datasets` itself writes; no item is ever null.
fn box_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::UInt32, true))
}

fn file_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

fn features() -> serde_json::Value {
    let value = |data_type: &str| serde_json::json!({"dtype": data_type, "_type": "Value"});
    let image = || serde_json::json!({"_type": "Image"});
    serde_json::json!({"info": {"features": {
        "image": image(),
        "mask": image(),
        "sample_id": value("string"),
        "source": value("string"),
        "split": value("string"),
        "class": value("string"),
        "height": value("uint32"),
        "width": value("uint32"),
        "foreground_pixels": value("uint64"),
        "box_xyxy": {"feature": value("uint32"), "length": 4, "_type": "Sequence"},
        "image_sha256": value("string"),
        "mask_sha256": value("string"),
        "perceptual_hash": value("uint64"),
        "license": value("string"),
    }}})
}

/// Rows as one batch of [`arrow_schema()`].
///
/// # Errors
/// [`SchemaError::TooLarge`] when images or masks exceed 2 GiB.
pub fn to_record_batch(rows: &[Row]) -> Result<RecordBatch, SchemaError> {
    let strings = |get: fn(&Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
    };
    let optional = |get: fn(&Row) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<StringArray>())
    };
    let u32s = |get: fn(&Row) -> u32| -> ArrayRef {
        let mut builder = UInt32Builder::with_capacity(rows.len());
        rows.iter().for_each(|row| builder.append_value(get(row)));
        Arc::new(builder.finish())
    };
    let u64s = |get: fn(&Row) -> u64| -> ArrayRef {
        let mut builder = UInt64Builder::with_capacity(rows.len());
        rows.iter().for_each(|row| builder.append_value(get(row)));
        Arc::new(builder.finish())
    };
    let mut boxes = FixedSizeListBuilder::new(UInt32Builder::new(), 4).with_field(box_item());
    for row in rows {
        boxes.values().append_slice(&row.box_xyxy);
        boxes.append(true);
    }
    let columns: Vec<ArrayRef> = vec![
        files("image", rows, |row| (&row.image_bytes, &row.image_path))?,
        files("mask", rows, |row| (&row.mask_bytes, &row.mask_path))?,
        strings(|row| &row.sample_id),
        strings(|row| &row.source),
        strings(|row| &row.split),
        optional(|row| row.class.as_deref()),
        u32s(|row| row.height),
        u32s(|row| row.width),
        u64s(|row| row.foreground_pixels),
        Arc::new(boxes.finish()),
        strings(|row| &row.image_sha256),
        strings(|row| &row.mask_sha256),
        u64s(|row| row.perceptual_hash),
        optional(|row| row.license.as_deref()),
    ];
    Ok(RecordBatch::try_new(arrow_schema(), columns)?)
}

fn files(
    column: &'static str,
    rows: &[Row],
    get: fn(&Row) -> (&[u8], &str),
) -> Result<ArrayRef, SchemaError> {
    let bytes = rows.iter().map(|row| get(row).0.len()).sum();
    if bytes > MAX_COLUMN_BYTES {
        return Err(SchemaError::TooLarge { column, rows: rows.len(), bytes });
    }
    let mut contents = BinaryBuilder::with_capacity(rows.len(), bytes);
    let mut paths = StringBuilder::new();
    for row in rows {
        let (bytes, path) = get(row);
        contents.append_value(bytes);
        paths.append_value(path);
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(contents.finish()), Arc::new(paths.finish())];
    Ok(Arc::new(StructArray::try_new(file_fields(), columns, None)?))
}

/// The rows of a batch that has all columns of [`arrow_schema()`], in any order; other columns are
/// ignored.
///
/// # Errors
/// [`SchemaError`] naming the column that is missing, of another type, or without a value.
pub fn from_record_batch(batch: &RecordBatch) -> Result<Vec<Row>, SchemaError> {
    let text = |name| Ok::<_, SchemaError>((name, column(batch, name)?.as_string::<i32>()));
    let (image_bytes, image_path) = file_columns(batch, "image")?;
    let (mask_bytes, mask_path) = file_columns(batch, "mask")?;
    let (sample_id, source, split) = (text("sample_id")?, text("source")?, text("split")?);
    let (class, license) = (text("class")?.1, text("license")?.1);
    let (image_sha256, mask_sha256) = (text("image_sha256")?, text("mask_sha256")?);
    let height = column(batch, "height")?.as_primitive::<UInt32Type>();
    let width = column(batch, "width")?.as_primitive::<UInt32Type>();
    let foreground_pixels = column(batch, "foreground_pixels")?.as_primitive::<UInt64Type>();
    let perceptual_hash = column(batch, "perceptual_hash")?.as_primitive::<UInt64Type>();
    let boxes = column(batch, "box_xyxy")?.as_fixed_size_list();

    let some =
        |array: &StringArray, row: usize| array.is_valid(row).then(|| array.value(row).to_owned());
    let string = |(column, array): (&'static str, &StringArray), row: usize| {
        some(array, row).ok_or(SchemaError::MissingValue { column, row })
    };
    let bytes = |(column, array): (&'static str, &BinaryArray), row: usize| {
        let found = array.is_valid(row).then(|| array.value(row).to_vec());
        found.ok_or(SchemaError::MissingValue { column, row })
    };
    (0..batch.num_rows())
        .map(|row| {
            let corners = boxes.value(row);
            let corners = corners.as_primitive::<UInt32Type>().values();
            let box_xyxy = <[u32; 4]>::try_from(&corners[..])
                .map_err(|_| SchemaError::MissingValue { column: "box_xyxy", row })?;
            Ok(Row {
                sample_id: string(sample_id, row)?,
                source: string(source, row)?,
                split: string(split, row)?,
                class: some(class, row),
                height: height.value(row),
                width: width.value(row),
                foreground_pixels: foreground_pixels.value(row),
                box_xyxy,
                image_sha256: string(image_sha256, row)?,
                mask_sha256: string(mask_sha256, row)?,
                perceptual_hash: perceptual_hash.value(row),
                license: some(license, row),
                image_bytes: bytes(image_bytes, row)?,
                image_path: string(image_path, row)?,
                mask_bytes: bytes(mask_bytes, row)?,
                mask_path: string(mask_path, row)?,
            })
        })
        .collect()
}

/// The column of that name, once its type is known to be the schema's.
fn column<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a ArrayRef, SchemaError> {
    let column = batch.column_by_name(name).ok_or(SchemaError::MissingColumn { column: name })?;
    let schema = arrow_schema();
    let expected = schema.field_with_name(name)?.data_type();
    if column.data_type() == expected {
        Ok(column)
    } else {
        Err(SchemaError::ColumnType {
            column: name,
            expected: expected.clone(),
            found: column.data_type().clone(),
        })
    }
}

type Named<'a, T> = (&'static str, &'a T);

fn file_columns<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<(Named<'a, BinaryArray>, Named<'a, StringArray>), SchemaError> {
    let file = column(batch, name)?.as_struct();
    Ok(((name, file.column(0).as_binary()), (name, file.column(1).as_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, class: Option<&str>) -> Row {
        Row {
            sample_id: format!("fss/{name}"),
            source: "fss".into(),
            split: "train".into(),
            class: class.map(str::to_owned),
            height: 224,
            width: 200,
            foreground_pixels: 5_000_000_000,
            box_xyxy: [1, 2, 3, 4],
            image_sha256: "ab".repeat(32),
            mask_sha256: "cd".repeat(32),
            perceptual_hash: u64::MAX,
            license: None,
            image_bytes: vec![1, 2, 3],
            image_path: "1.jpg".into(),
            mask_bytes: vec![],
            mask_path: "1.png".into(),
        }
    }

    #[test]
    fn rows_survive_the_batch() {
        let rows = vec![row("a#1", Some("abe's_flyingfish")), row("b", None)];
        let batch = to_record_batch(&rows).unwrap();
        assert_eq!(batch.schema(), arrow_schema());
        assert_eq!(from_record_batch(&batch).unwrap(), rows);
        assert_eq!(from_record_batch(&to_record_batch(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn the_features_name_every_column() {
        let schema = arrow_schema();
        let features: serde_json::Value =
            serde_json::from_str(&schema.metadata()[FEATURES_KEY]).unwrap();
        let features = features["info"]["features"].as_object().unwrap().clone();
        assert_eq!(features.len(), schema.fields().len());
        for field in schema.fields() {
            assert!(features.contains_key(field.name()), "{}", field.name());
        }
    }

    #[test]
    fn missing_and_mistyped_columns_are_named() {
        let batch = to_record_batch(&[row("a", None)]).unwrap();
        let without = batch.project(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]).unwrap();
        let error = from_record_batch(&without).unwrap_err().to_string();
        assert!(error.contains("`image`"), "{error}");

        let mut columns = batch.columns().to_vec();
        columns[6] = Arc::new(StringArray::from(vec!["224"]));
        let mut fields = batch.schema().fields().to_vec();
        fields[6] = Arc::new(Field::new("height", DataType::Utf8, false));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let error = from_record_batch(&batch).unwrap_err().to_string();
        assert_eq!(error, "column `height` has type Utf8, expected UInt32");
    }
}
