//! Licences from the catalogue to rows, card and page, and builds for commercial use.

use dataset::source::{Layout, Permission};
use pipeline::build;
use pipeline::build::{BuildError, CARD_FILE, PAGE_FILE};

use crate::support::{Collection, contents};

#[test]
fn the_catalogue_licenses_rows_report_card_and_page() {
    let collection = Collection::new(8);
    let mut config = collection.config("out");
    config.source[0].license = None;
    let report = build(&config).unwrap();
    let terms = &report.sources[0].terms;
    assert_eq!(terms.license.as_deref(), Some("none stated"));
    assert_eq!(terms.commercial, Permission::NotStated);
    let output = collection.output("out");
    let rows = first_shard(&collection);
    assert!(rows.iter().all(|row| row.license.as_deref() == Some("none stated")));
    let card = std::fs::read_to_string(output.join(CARD_FILE)).unwrap();
    assert!(card.contains("| drawn | none stated | not stated | not stated |"), "{card}");
    assert!(card.contains("Not known to permit redistribution: drawn."), "{card}");
    assert!(card.contains("path: \"shards/train-[0-9]*.parquet\""), "{card}");
    let page = std::fs::read_to_string(output.join(PAGE_FILE)).unwrap();
    assert!(page.contains("Hierarchical Image Saliency Detection"));
    // Elsewhere and with other threads: the same card, page and report.
    let mut again = config.clone();
    (again.output, again.threads) = (collection.output("again").display().to_string(), Some(1));
    build(&again).unwrap();
    assert!(contents(&output) == contents(&collection.output("again")));
}

#[test]
fn a_commercial_build_leaves_out_what_does_not_permit_it() {
    let collection = Collection::new(6);
    let mut config = collection.config("out");
    config.commercial_only = true;
    let error = build(&config).unwrap_err();
    assert!(matches!(error, BuildError::NothingPermitted { .. }), "{error}");
    assert!(error.to_string().contains("drawn (none)"), "{error}");

    let mut own = config.source[0].clone();
    (own.name, own.license, own.commercial) = ("own".into(), Some("mine".into()), Some(true));
    let mut closed = config.source[0].clone();
    (closed.name, closed.license, closed.layout) = ("DIS".into(), None, Layout::Dis5k);
    config.source.extend([own, closed]);
    let report = build(&config).unwrap();
    assert_eq!(report.sources.len(), 1);
    assert_eq!((report.sources[0].name.as_str(), report.rows), ("own", 6));
    let left_out: Vec<(&str, &str)> = report
        .left_out
        .iter()
        .map(|source| (source.name.as_str(), source.reason.as_str()))
        .collect();
    assert_eq!(
        left_out,
        [
            ("drawn", "it is not known to permit commercial use"),
            ("DIS", "its terms forbid commercial use")
        ]
    );
    assert!(first_shard(&collection).iter().all(|row| row.source == "own"));
    assert!(build(&config).unwrap().up_to_date);
    // The left-out source need not even be there: its root has no DIS5K in it.
    config.commercial_only = false;
    assert!(build(&config).is_err());
}

fn first_shard(collection: &Collection) -> Vec<dataset::schema::Row> {
    let file = std::fs::File::open(collection.shard("out", "train", 0)).unwrap();
    let reader =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let batches = reader.build().unwrap();
    batches.flat_map(|batch| dataset::schema::from_record_batch(&batch.unwrap()).unwrap()).collect()
}
