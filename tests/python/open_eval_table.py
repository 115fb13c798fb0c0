"""Opens the table of an evaluation with DuckDB and with datasets; prints what they see."""

import json
import sys

import datasets
import duckdb

path = sys.argv[1]
rows = duckdb.execute(
    "select protocol, avg(sam_mask_iou), avg(sam_boundary_iou), avg(hq_mask_iou),"
    " avg(hq_boundary_iou) from read_parquet(?) group by protocol",
    [path],
).fetchall()
(count,) = duckdb.execute("select count(distinct (protocol, sample_id)) from read_parquet(?)", [path]).fetchone()
opened = datasets.Dataset.from_parquet(path, cache_dir="datasets_cache")
assert isinstance(opened[0]["sam_both_empty"], bool)
print(json.dumps({
    "rows": count,
    "datasets_rows": len(opened),
    "means": {protocol: means for protocol, *means in rows},
}))
