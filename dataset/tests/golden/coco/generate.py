"""Masks of synthetic annotations as pycocotools draws them.

    python generate.py > masks.json

Each case has the size (height, width), the segmentation as an annotation file has it, and the
lengths of the runs of its mask in the order of columns, background first.
"""

import json
import math
import random
import sys
from importlib.metadata import version

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

assert version("pycocotools") == "2.0.11", version("pycocotools")

def star(rng, height, width, points):
    """A polygon around the middle, at random distances, that may leave the image."""
    flat = []
    for index in range(points):
        angle = 2 * math.pi * index / points
        reach = rng.uniform(0.1, 0.7)
        flat += [
            round(width / 2 + reach * width * math.cos(angle), 2),
            round(height / 2 + reach * height * math.sin(angle), 2),
        ]
    return flat

def segmentations():
    rng = random.Random(7)
    yield (9, 7), [[1, 1, 5, 1, 5, 6, 1, 6]]
    yield (9, 7), [[1.5, 1.5, 5.5, 1.5, 5.5, 6.5, 1.5, 6.5]]
    yield (20, 30), [[0, 0, 30, 0, 30, 20, 0, 20]]
    yield (20, 30), [[-5, -5, 40, -5, 40, 25, -5, 25]]
    yield (20, 30), [[2, 2, 12, 2, 12, 12], [8, 8, 25, 8, 25, 18, 8, 18]]
    yield (20, 30), [[3, 3, 3, 3, 15, 4, 15, 4, 9, 17, 9, 17]]
    yield (20, 30), [[5, 5, 25, 15, 5, 15, 25, 5]]
    yield (20, 30), [[4, 4, 4, 9, 4, 4]]
    yield (1, 40), [[0, 0, 20.3, 0, 20.3, 1, 0, 1]]
    yield (40, 1), [[0, 3.2, 1, 3.2, 1, 30.7, 0, 30.7]]
    for size in [(5, 5), (17, 23), (64, 48), (48, 64)]:
        for points in (3, 4, 7, 12):
            yield size, [star(rng, *size, points)]
            yield size, [star(rng, *size, points), star(rng, *size, 5)]
    for size in [(6, 4), (31, 9)]:
        pixels = np.asfortranarray(
            np.array([[rng.random() < 0.4 for _ in range(size[1])] for _ in range(size[0])], np.uint8)
        )
        compressed = coco_mask.encode(pixels)
        yield size, {"size": list(size), "counts": compressed["counts"].decode()}
        yield size, {"size": list(size), "counts": runs(pixels)}
    for value in (0, 1):
        pixels = np.asfortranarray(np.full((300, 200), value, np.uint8))
        yield (300, 200), {"size": [300, 200], "counts": coco_mask.encode(pixels)["counts"].decode()}
        yield (300, 200), {"size": [300, 200], "counts": runs(pixels)}

def runs(pixels):
    flat = pixels.flatten(order="F").astype(bool)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0] + lengths if flat[0] else lengths

def drawn(size, segmentation):
    coco = COCO()
    coco.imgs = {1: {"id": 1, "height": size[0], "width": size[1]}}
    return coco.annToMask({"image_id": 1, "segmentation": segmentation})

lines = [
    json.dumps(
        {"size": size, "segmentation": segmentation, "runs": runs(drawn(size, segmentation))}
    )
    for size, segmentation in segmentations()
]
sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
