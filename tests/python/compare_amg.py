"""Compares `hqsam amg` with SamAutomaticMaskGenerator, and its NMS with torchvision's.

Usage: compare_amg.py SPEC.json
The specification names model, image, sizes and runs: the generator's options and the file that
`hqsam amg` wrote for them. Prints one JSON object a run: numbers of masks, the smallest IoU of a
pair, largest differences of boxes, areas and scores.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from segment_anything_hq import SamAutomaticMaskGenerator
from small_vit import build
from torchvision.ops.boxes import batched_nms


def compare(ours: list, theirs: list) -> dict:
    """Masks belong together that come from the same point of the same crop."""

    def key(record: dict) -> tuple:
        return (*np.round(record["point_coords"][0], 6).tolist(), *map(float, record["crop_box"]))

    published = {key(record): record for record in theirs}
    pairs = [(record, published[key(record)]) for record in ours if key(record) in published]
    result = {"ours": len(ours), "published": len(theirs), "pairs": len(pairs)}
    if not pairs:
        return result

    def overlap(a: dict, b: dict) -> float:
        return float(mask_utils.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0])

    result["smallest_iou"] = min(overlap(a, b) for a, b in pairs)
    for name in ("bbox", "area", "predicted_iou", "stability_score"):
        difference = [np.abs(np.subtract(a[name], b[name])).max() for a, b in pairs]
        result[name] = float(max(difference))
    return result


def main() -> None:
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    image = np.asarray(Image.open(spec["image"]).convert("RGB"))
    sam = build(spec["model"], spec["sizes"], hq=True)
    result = {}
    for name, run in spec["runs"].items():
        generator = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **run["options"])
        with open(run["file"]) as file:
            ours = json.load(file)
        result[name] = compare(ours, generator.generate(image))
    boxes, scores = torch.tensor(spec["nms"]["boxes"]), torch.tensor(spec["nms"]["scores"])
    kept = batched_nms(boxes, scores, torch.zeros(len(boxes)), spec["nms"]["threshold"])
    result["nms"] = kept.tolist()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
