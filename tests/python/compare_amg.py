"""Compares `hqsam amg` with SamAutomaticMaskGenerator, and its NMS with torchvision's.

Usage: compare_amg.py SPEC.json
The specification names model, image, sizes and runs: the generator's options and the file that
`hqsam amg` wrote for them. Prints one JSON object a run: numbers of masks, the smallest IoU of a
matched mask, largest differences of boxes, scores and points.
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
    """Both lists are in the order of their scores; equal scores may be in another order."""
    result = {"ours": len(ours), "published": len(theirs)}
    if not ours or not theirs:
        return result
    overlap = mask_utils.iou(
        [record["segmentation"] for record in ours],
        [record["segmentation"] for record in theirs],
        [0] * len(theirs),
    )
    match = overlap.argmax(axis=1)
    result["pairs"] = len(set(match.tolist()))
    result["smallest_iou"] = float(overlap.max(axis=1).min())

    def largest(values) -> float:
        return float(max(np.abs(values(a) - values(theirs[b])).max() for a, b in zip(ours, match)))

    for key in ("bbox", "point_coords", "crop_box", "area", "predicted_iou", "stability_score"):
        result[key] = largest(lambda record: np.array(record[key], dtype=float))
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
