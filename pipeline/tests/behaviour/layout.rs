//! The layout of a written shard, as data.

use std::fs::File;

use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::page::Page;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::support::Collection;

/// One column of one row group.
#[derive(Debug, PartialEq)]
struct Column {
    name: &'static str,
    pages: Vec<usize>,
    plain: bool,
}

fn fact(name: &'static str, rows: usize) -> Column {
    Column { name, pages: vec![rows], plain: false }
}

fn streamed(name: &'static str, rows: usize) -> Column {
    Column { name, pages: vec![1; rows], plain: true }
}

fn expected(rows: usize) -> Vec<Column> {
    vec![
        streamed("image.bytes", rows),
        fact("image.path", rows),
        streamed("mask.bytes", rows),
        fact("mask.path", rows),
        streamed("sample_id", rows),
        streamed("source", rows),
        fact("split", rows),
        fact("class", rows),
        fact("height", rows),
        fact("width", rows),
        fact("foreground_pixels", rows),
        fact("box_xyxy.list.item", rows),
        streamed("image_sha256", rows),
        streamed("mask_sha256", rows),
        fact("perceptual_hash", rows),
        fact("license", rows),
    ]
}

fn metadata(file: &File) -> ParquetMetaData {
    ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(file)
        .unwrap()
}

#[test]
fn row_groups_and_pages_are_as_documented() {
    let collection = Collection::new(14);
    let mut config = collection.config("out");
    config.shard_bytes = 1 << 20;
    pipeline::build(&config).unwrap();
    let path = collection.shard("out", "train", 0);
    let file = File::open(&path).unwrap();
    let metadata = metadata(&file);
    // 14 pairs, a quarter held out: 10 rows in groups of at most 4.
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [4, 4, 2]);
    let reader = SerializedFileReader::new(file).unwrap();
    let names: Vec<String> = metadata
        .row_group(0)
        .columns()
        .iter()
        .map(|column| column.column_path().string())
        .collect();
    for (group, rows) in rows.iter().enumerate() {
        let index = metadata.page_index_for_row_group(group);
        for (column, expected) in expected(*rows as usize).into_iter().enumerate() {
            assert_eq!(names[column], expected.name);
            let chunk = metadata.row_group(group).column(column);
            let plain = chunk.compression() == Compression::UNCOMPRESSED
                && chunk.dictionary_page_offset().is_none();
            let pages = data_pages(&reader, group, column);
            assert_eq!(Column { name: expected.name, pages, plain }, expected, "group {group}");
            let located = index.offset_index(column).unwrap().page_locations().len();
            assert_eq!(located, expected.pages.len());
        }
    }
}

/// Rows of each data page.
fn data_pages(reader: &SerializedFileReader<File>, group: usize, column: usize) -> Vec<usize> {
    let group = reader.get_row_group(group).unwrap();
    let repeated = group.metadata().column(column).column_descr().max_rep_level() > 0;
    let mut pages = group.get_column_page_reader(column).unwrap();
    let mut rows = Vec::new();
    while let Some(page) = pages.get_next_page().unwrap() {
        if page.page_type() == PageType::DICTIONARY_PAGE {
            continue;
        }
        assert!(matches!(page, Page::DataPage { .. }), "readers of every age know version 1 pages");
        assert_ne!(page.encoding(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
        // A box has four values a row.
        rows.push(page.num_values() as usize / if repeated { 4 } else { 1 });
    }
    rows
}

#[test]
fn a_row_group_is_bounded_by_its_bytes_too() {
    use dataset::schema::Row;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.parquet");
    let mut writer = pipeline::shard::ShardWriter::create(&path, 100).unwrap();
    for (index, mebibytes) in [20, 20, 40, 1, 1].into_iter().enumerate() {
        let row = Row {
            sample_id: format!("s/{index}"),
            source: "s".into(),
            split: "train".into(),
            class: None,
            height: 1,
            width: 1,
            foreground_pixels: 1,
            box_xyxy: [0; 4],
            image_sha256: String::new(),
            mask_sha256: String::new(),
            perceptual_hash: 0,
            license: None,
            image_bytes: vec![index as u8; mebibytes << 20],
            image_path: "a.jpg".into(),
            mask_bytes: vec![0],
            mask_path: "a.png".into(),
        };
        writer.push(row).unwrap();
    }
    let written = writer.finish().unwrap();
    assert_eq!((written.rows, written.bytes), (5, std::fs::metadata(&path).unwrap().len()));
    let metadata = metadata(&File::open(&path).unwrap());
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [1, 1, 1, 2]);
}

#[test]
fn the_schema_declares_images_for_other_readers() {
    let collection = Collection::new(4);
    collection.build("out");
    let file = File::open(collection.shard("out", "train", 0)).unwrap();
    let metadata = metadata(&file);
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let features = pairs.iter().find(|pair| pair.key == "huggingface").unwrap();
    let features: serde_json::Value =
        serde_json::from_str(features.value.as_ref().unwrap()).unwrap();
    assert_eq!(features["info"]["features"]["image"]["_type"], "Image");
    assert_eq!(features["info"]["features"]["mask"]["_type"], "Image");
    // `datasets` takes its features only for columns that may be null, as its own are.
    let schema = metadata.file_metadata().schema_descr();
    for column in schema.root_schema().get_fields() {
        assert!(column.is_optional(), "{}", column.name());
    }
}
