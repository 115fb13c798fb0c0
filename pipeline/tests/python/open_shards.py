"""Opens a data set with Hugging Face's `datasets` in every usual way, and with DuckDB.

Prints one JSON object: by way and split, the sample ids in order, and how many pictures were
decoded and found to be what their columns say.
"""

import io
import json
import sys
from pathlib import Path

import datasets
import duckdb
import numpy
from PIL import Image

folder = Path(sys.argv[1])
datasets.disable_progress_bars()


def check(row, image, mask):
    """Both pictures have the size, and the mask the area and box, that the columns say."""
    width_height = (row["width"], row["height"])
    assert image.convert("RGB").size == width_height, (row["sample_id"], image.size)
    assert mask.mode == "L" and mask.size == width_height, (row["sample_id"], mask.mode, mask.size)
    foreground = numpy.asarray(mask) > 128
    assert int(foreground.sum()) == row["foreground_pixels"], row["sample_id"]
    ys, xs = numpy.nonzero(foreground)
    box = [int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())]
    assert list(row["box_xyxy"]) == box, (row["sample_id"], row["box_xyxy"], box)


def ids(rows):
    found = []
    for row in rows:
        check(row, row["image"], row["mask"])
        found.append(row["sample_id"])
    return found


def all_ids(splits):
    return {name: ids(rows) for name, rows in splits.items()}


manifest = json.loads((folder / "manifest.json").read_text())
files = {
    name.replace("-", "_"): [str(folder / shard["path"]) for shard in split["shards"]]
    for name, split in manifest["splits"].items()
}
result = {
    "parquet": all_ids(datasets.load_dataset("parquet", data_files=files)),
    "card": all_ids(datasets.load_dataset(str(folder))),
    "streamed parquet": all_ids(datasets.load_dataset("parquet", data_files=files, streaming=True)),
    "streamed card": all_ids(datasets.load_dataset(str(folder), streaming=True)),
}

card = datasets.load_dataset_builder(str(folder)).info
assert isinstance(card.features["image"], datasets.Image), card.features
assert isinstance(card.features["mask"], datasets.Image), card.features
result["card rows"] = {name: split.num_examples for name, split in card.splits.items()}

database = duckdb.connect()
shards = str(folder / "shards" / "*.parquet")
columns = "sample_id, split, height, width, foreground_pixels, box_xyxy"
query = f"select image.bytes, mask.bytes, {columns} from read_parquet(?) order by sample_id"
found = {}
for image, mask, *values in database.execute(query, [shards]).fetchall():
    row = dict(zip(columns.split(", "), values))
    check(row, Image.open(io.BytesIO(image)), Image.open(io.BytesIO(mask)))
    found.setdefault(row["split"].replace("-", "_"), []).append(row["sample_id"])
result["duckdb"] = found
counts = database.execute(
    "select source, split, count(*), sum(foreground_pixels)::bigint from read_parquet(?) "
    "group by all order by all",
    [shards],
)
result["duckdb counts"] = counts.fetchall()
json.dump(result, sys.stdout)
