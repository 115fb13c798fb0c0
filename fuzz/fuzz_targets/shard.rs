//! Shards: any bytes in place of a shard of two rows give rows or an error, footer, page index and
//! pages included.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use pipeline::Dataset;

fuzz_target!(
    init: {
        // The fuzzer's hook ends the program at any panic, also at those of the Parquet library that
        // the reader turns into errors. One that reaches the fuzzer still ends it.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |bytes: &[u8]| {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let manifest = format!(
        r#"{{"schema_version": {}, "sources": {{}}, "config": {{}},
            "splits": {{"train": {{"num_samples": 2, "shards": [
                {{"path": "shards/a.parquet", "rows": 2, "bytes": {}, "sha256": ""}}]}}}}}}"#,
        dataset::schema::SCHEMA_VERSION,
        bytes.len()
    );
    let put = |path: &str, bytes: Vec<u8>| {
        let (store, path) = (Arc::clone(&store), Path::from(path));
        futures::executor::block_on(async move { store.put(&path, PutPayload::from(bytes)).await })
            .expect("memory takes any object");
    };
    put("manifest.json", manifest.into_bytes());
    put("shards/a.parquet", bytes.to_vec());
    let dataset = Dataset::open_in(store, Path::default(), "memory".to_owned())
        .expect("the manifest is right");
    for row in 0..2 {
        let _ = dataset.read_stored("train", row);
    }
}
);
