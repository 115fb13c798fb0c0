//! Lists that name each pair: CSV with a header, or one JSON object a line.

use serde_json::{Map, Value};

use super::super::folders::{Listing, without_extension};
use super::super::{Layout, MaskOrigin, SourceError};
use super::{Candidate, Found, TRAIN};
use crate::verify::RejectReason;

/// `image` and `mask` are required; the others may be absent or empty.
const COLUMNS: [&str; 6] = ["image", "mask", "split", "class", "name", "license"];
const IMAGE: usize = 0;
const MASK: usize = 1;
const SPLIT: usize = 2;
const CLASS: usize = 3;
const NAME: usize = 4;
const LICENSE: usize = 5;

/// The values of [`COLUMNS`] in one line; empty where there is none.
type Record = [String; COLUMNS.len()];

/// Paths are relative to the root. Without a `name` a pair is called after its image.
pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let layout = listing.spec.layout;
    let Some(list) = &listing.spec.list else {
        return Err(listing.problem(format!(
            "layout `{0}` needs `list`, such as `list = \"pairs.{0}\"`, relative to the root",
            layout.name()
        )));
    };
    let reader = Reader { listing, list };
    let path = listing.locate(list).unwrap_or_else(|| list.clone());
    let text = listing.read_text(&path)?;
    let records = if layout == Layout::Csv { reader.csv(&text)? } else { reader.jsonl(&text)? };
    let mut found = Found::default();
    for (line, record) in records {
        reader.add(line, record, &mut found)?;
    }
    if found.candidates.is_empty() && found.rejected.is_empty() {
        return Err(reader.problem(None, "no pair is listed"));
    }
    Ok(found)
}

struct Reader<'a> {
    listing: &'a Listing<'a>,
    list: &'a str,
}

impl Reader<'_> {
    /// Each record with its line, from 1.
    fn csv(&self, text: &str) -> Result<Vec<(u64, Record)>, SourceError> {
        let mut reader = csv::ReaderBuilder::new().from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| self.problem(None, &error.to_string()))?;
        let columns = header
            .iter()
            .map(|column| self.column(None, column.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        for required in [IMAGE, MASK] {
            if !columns.contains(&Some(required)) {
                let header: Vec<&str> = header.iter().collect();
                let message = format!(
                    "no column `{}` in the header `{}`",
                    COLUMNS[required],
                    header.join(",")
                );
                return Err(self.problem(None, &message));
            }
        }
        let mut records = Vec::new();
        for row in reader.records() {
            let row = row.map_err(|error| self.problem(None, &error.to_string()))?;
            let mut record = Record::default();
            for (column, value) in columns.iter().zip(&row) {
                if let Some(column) = column {
                    value.clone_into(&mut record[*column]);
                }
            }
            records.push((row.position().map_or(0, csv::Position::line), record));
        }
        Ok(records)
    }

    fn jsonl(&self, text: &str) -> Result<Vec<(u64, Record)>, SourceError> {
        let mut records = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let object: Map<String, Value> = serde_json::from_str(text)
                .map_err(|error| self.problem(Some(line), &format!("no JSON object: {error}")))?;
            let mut record = Record::default();
            for (key, value) in object {
                let Some(column) = self.column(Some(line), &key)? else { continue };
                record[column] = match value {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Null => String::new(),
                    other => {
                        let message = format!("`{key}` is {other}: expected a string");
                        return Err(self.problem(Some(line), &message));
                    }
                };
            }
            records.push((line, record));
        }
        Ok(records)
    }

    /// The index of a column by its name; `None` for one that is to be ignored.
    fn column(&self, line: Option<u64>, name: &str) -> Result<Option<usize>, SourceError> {
        if self.listing.spec.ignore_columns.iter().any(|ignored| ignored == name) {
            return Ok(None);
        }
        match COLUMNS.iter().position(|known| *known == name) {
            Some(column) => Ok(Some(column)),
            None => Err(self.problem(
                line,
                &format!(
                    "unknown column `{name}`: expected {}, or name it in `ignore_columns`",
                    COLUMNS.join(", ")
                ),
            )),
        }
    }

    fn add(&self, line: u64, record: Record, found: &mut Found) -> Result<(), SourceError> {
        let listing = self.listing;
        let files = [IMAGE, MASK].map(|column| {
            relative(&record[column]).map_err(|wrong| {
                self.problem(Some(line), &format!("`{}` {wrong}", COLUMNS[column]))
            })
        });
        let [image, mask] = files;
        let (image, mask) = (image?, mask?);
        let mut record = record.map(|value| Some(value).filter(|value| !value.is_empty()));
        let name = record[NAME].take().unwrap_or_else(|| without_extension(&image).to_owned());
        let located = listing.locate(&mask).map(MaskOrigin::File);
        let rejected = match (listing.locate(&image), located) {
            (Some(image), Some(mask)) => {
                let native_split = record[SPLIT].take().unwrap_or_else(|| TRAIN.to_owned());
                let (class, license) = (record[CLASS].take(), record[LICENSE].take());
                let part = None;
                let pair = Candidate { name, native_split, class, license, image, mask, part };
                found.add(listing, pair);
                return Ok(());
            }
            (None, mask) => listing.reject(&name, Some(image), mask, RejectReason::MissingImage),
            (image, None) => {
                let mask = Some(MaskOrigin::File(mask));
                listing.reject(&name, image, mask, RejectReason::MissingMask)
            }
        };
        found.rejected.push(rejected);
        Ok(())
    }

    fn problem(&self, line: Option<u64>, message: &str) -> SourceError {
        let line = line.map_or(String::new(), |line| format!(":{line}"));
        self.listing.problem(format!("{}{line}: {message}", self.list))
    }
}

/// A path as lists write it: `/`-separated below the root, whatever the system it came from.
fn relative(path: &str) -> Result<String, String> {
    let slashed = path.trim().replace('\\', "/");
    let drive = slashed.as_bytes().get(1) == Some(&b':');
    if slashed.is_empty() {
        return Err("is empty".to_owned());
    }
    if slashed.starts_with('/') || drive || slashed.contains("://") {
        return Err(format!("is `{path}`: write it relative to the root"));
    }
    let parts: Vec<&str> =
        slashed.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(format!("is `{path}`, which leads out of the root"));
    }
    Ok(parts.join("/"))
}
