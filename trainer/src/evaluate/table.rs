//! The results of every image as a Parquet table.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::report::{EvalReport, ImageScore};
use crate::train::TrainError;

/// Writes one row per image and protocol to `path`, which holds the whole table or nothing new.
///
/// # Errors
/// A file that cannot be written.
pub fn write_table(path: &Path, report: &EvalReport) -> Result<(), TrainError> {
    let staged = path.with_extension("parquet.tmp");
    let io = |source| TrainError::Io { path: path.to_owned(), source };
    let file = File::create(&staged).map_err(io)?;
    write(file, report).map_err(|error| io(std::io::Error::other(error)))?;
    std::fs::rename(staged, path).map_err(io)
}

fn write(file: File, report: &EvalReport) -> Result<(), ParquetError> {
    let facts = [
        ("split", report.split.clone()),
        ("split_images", report.split_images.to_string()),
        ("data", report.data.clone()),
        ("data_sha256", report.data_sha256.clone()),
        ("hq_sha256", report.hq_sha256.clone()),
        ("hq_output", report.hq_output.to_string()),
        ("dilation_ratio", report.dilation_ratio.to_string()),
        ("seed", report.seed.to_string()),
    ];
    let facts = facts.map(|(key, value)| KeyValue::new(key.to_owned(), value));
    let properties =
        WriterProperties::builder().set_key_value_metadata(Some(facts.to_vec())).build();
    let batch = to_record_batch(&report.images)?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    let file = writer.into_inner()?;
    file.sync_all()?;
    Ok(())
}

fn to_record_batch(images: &[ImageScore]) -> Result<RecordBatch, ParquetError> {
    let text = |value: fn(&ImageScore) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(images.iter().map(value)))
    };
    let count = |value: fn(&ImageScore) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(images.iter().map(value)))
    };
    let share = |value: fn(&ImageScore) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(images.iter().map(value)))
    };
    let flag = |value: fn(&ImageScore) -> bool| -> ArrayRef {
        Arc::new(images.iter().map(|image| Some(value(image))).collect::<BooleanArray>())
    };
    let columns = [
        ("sample_id", text(|image| image.sample_id.clone())),
        ("source", text(|image| image.source.clone())),
        ("protocol", text(|image| image.protocol.to_string())),
        ("row", count(|image| image.row)),
        ("height", count(|image| image.height as u64)),
        ("width", count(|image| image.width as u64)),
        ("truth_pixels", count(|image| image.truth_pixels)),
        ("sam_pixels", count(|image| image.sam_pixels)),
        ("hq_pixels", count(|image| image.hq_pixels)),
        ("sam_mask_iou", share(|image| image.sam.mask_iou)),
        ("sam_boundary_iou", share(|image| image.sam.boundary_iou)),
        ("hq_mask_iou", share(|image| image.hq.mask_iou)),
        ("hq_boundary_iou", share(|image| image.hq.boundary_iou)),
        ("sam_both_empty", flag(ImageScore::sam_both_empty)),
        ("hq_both_empty", flag(ImageScore::hq_both_empty)),
        ("prompt_replaced", flag(|image| image.prompt_replaced)),
    ];
    // No column can be null.
    let columns = columns.into_iter().map(|(name, values)| (name, values, false));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::evaluate::report::tests::{image, report};

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("val.parquet");
        let report = report(vec![image(3, "a", 0.75), image(4, "b", 0.5)]);
        write_table(&path, &report).unwrap();
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let facts = file.metadata().file_metadata().key_value_metadata().unwrap();
        for (key, value) in [("data", "data/mine"), ("data_sha256", "4567"), ("hq_sha256", "0123")]
        {
            assert!(facts.contains(&KeyValue::new(key.to_owned(), value.to_owned())), "{facts:?}");
        }
        let mut reader = ParquetRecordBatchReader::try_new(File::open(&path).unwrap(), 10).unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert_eq!(batch.num_rows(), 2);
        let ids = batch.column_by_name("sample_id").unwrap().as_string::<i32>();
        assert_eq!(ids.value(1), "b/4");
        let values = batch.column_by_name("hq_mask_iou").unwrap();
        let values: &Float64Array = values.as_any().downcast_ref().unwrap();
        assert_eq!(values.values().as_ref(), [0.75, 0.5]);
        assert!(!path.with_extension("parquet.tmp").exists());
        // No image at all is a table without rows.
        write_table(&path, &crate::evaluate::report::tests::report(vec![])).unwrap();
    }
}
