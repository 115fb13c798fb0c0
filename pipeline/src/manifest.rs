//! `manifest.json`: what a data set holds. It is published last, so a folder that has one is whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the manifest inside a data set.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The shards of a data set and how they were made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Manifest {
    /// [`dataset::schema::SCHEMA_VERSION`] of the shards.
    pub schema_version: u32,
    /// By split name.
    pub splits: BTreeMap<String, SplitInfo>,
    /// Rows by source name, then by split name.
    pub sources: BTreeMap<String, BTreeMap<String, u64>>,
    /// The resolved build configuration, without what cannot change a byte of a shard.
    pub config: serde_json::Value,
}

/// The shards of one split, in the order of their rows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SplitInfo {
    /// Rows of all shards together.
    pub num_samples: u64,
    /// In row order: row `n` of the split lies in the first shard whose rows reach past `n`.
    pub shards: Vec<ShardInfo>,
}

/// One Parquet file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ShardInfo {
    /// Relative to the data set, `/`-separated.
    pub path: String,
    /// Rows in the file.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Lower-case hexadecimal digest of the file.
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest and checks that its counts agree with each other.
    ///
    /// # Errors
    /// One line that says what is wrong; the caller adds where the manifest was.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.schema_version != dataset::schema::SCHEMA_VERSION {
            return Err(format!(
                "schema version {} but this program reads {}: rebuild the data set or use the \
                 program that built it",
                manifest.schema_version,
                dataset::schema::SCHEMA_VERSION
            ));
        }
        for (name, split) in &manifest.splits {
            // Checked: a damaged manifest may hold any numbers.
            let rows = split.shards.iter().try_fold(0u64, |sum, shard| sum.checked_add(shard.rows));
            if rows != Some(split.num_samples) {
                return Err(format!(
                    "split `{name}` claims {} samples but its shards do not add up to that",
                    split.num_samples
                ));
            }
        }
        let shards = || manifest.splits.values().flat_map(|split| &split.shards);
        if shards().try_fold(0u64, |sum, shard| sum.checked_add(shard.rows)).is_none()
            || shards().try_fold(0u64, |sum, shard| sum.checked_add(shard.bytes)).is_none()
        {
            return Err("its shards hold more rows or bytes than can be counted".to_owned());
        }
        Ok(manifest)
    }

    /// The bytes that are published: indented JSON with a final newline.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("maps with string keys always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// Rows of all splits together.
    #[must_use]
    pub fn num_samples(&self) -> u64 {
        self.splits.values().map(|split| split.num_samples).sum()
    }

    /// Bytes of all shards together.
    #[must_use]
    pub fn num_bytes(&self) -> u64 {
        self.splits.values().flat_map(|split| &split.shards).map(|shard| shard.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, splits: &str) -> Vec<u8> {
        let version = dataset::schema::SCHEMA_VERSION;
        format!(
            r#"{{"schema_version": {version}, "splits": {splits}, "sources": {{}}, "config": {config}}}"#
        )
        .into_bytes()
    }

    proptest::proptest! {
        #[test]
        fn numbers_of_the_configuration_are_exact(
            number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL
        ) {
            let read = Manifest::parse(&manifest(&format!(r#"{{"x": {number:e}}}"#), "{}")).unwrap();
            proptest::prop_assert_eq!(read.config["x"].as_f64(), Some(number));
            proptest::prop_assert_eq!(Manifest::parse(&read.to_bytes()), Ok(read));
        }
    }

    #[test]
    fn counts_past_any_data_set_are_refused() {
        let split = |name: &str, rows: u64, bytes: u64| {
            format!(
                r#""{name}": {{"num_samples": {rows}, "shards": [
                    {{"path": "{name}.parquet", "rows": {rows}, "bytes": {bytes}, "sha256": ""}}]}}"#
            )
        };
        for (rows, bytes) in [(u64::MAX, 1), (1, u64::MAX)] {
            let splits = format!("{{{}, {}}}", split("a", rows, bytes), split("b", 1, 1));
            let error = Manifest::parse(&manifest("{}", &splits)).unwrap_err();
            assert!(error.contains("can be counted"), "{error}");
        }
    }
}
