"""Compares masks, scores and logits of every kind of prompt with segment-anything-hq.

Usage: compare_prompts.py CASES.json OURS.safetensors
The cases name the model, the image and the prompts; tensors are `<case>.<mode>.<multi|single>.
{logits,scores,masks}`. Prints one JSON object by tensor group: largest differences of logits (in
parts of the largest, where that exceeds 1) and scores, and the share of differing mask pixels.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from segment_anything_hq import SamPredictor
from small_vit import build


def main() -> None:
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    ours = load_file(sys.argv[2])
    image = np.asarray(Image.open(spec["image"]).convert("RGB"))
    predictors = {}
    for kind, hq in (("hq", True), ("sam", False)):
        predictors[kind] = SamPredictor(build(spec["model"], spec["sizes"], hq))
        with torch.no_grad():
            predictors[kind].set_image(image)
    result = {}
    for name, case in spec["cases"].items():
        points = case.get("points")
        mask = case.get("mask")
        prompt = {
            "point_coords": np.array([point[:2] for point in points], dtype=float) if points else None,
            "point_labels": np.array([point[2] for point in points]) if points else None,
            "box": np.array(case["box"], dtype=float) if "box" in case else None,
            "mask_input": ours[mask].numpy()[None] if mask else None,
        }
        for mode in ("hq", "sum", "sam"):
            predictor = predictors["sam" if mode == "sam" else "hq"]
            for multi in (False, True):
                masks, scores, logits = predictor.predict(
                    **prompt, multimask_output=multi, hq_token_only=mode == "hq"
                )
                group = f"{name}.{mode}.{'multi' if multi else 'single'}"
                found = {part: ours[f"{group}.{part}"].numpy() for part in ("logits", "scores", "masks")}
                assert found["masks"].shape == masks.shape, (group, found["masks"].shape, masks.shape)
                assert found["logits"].shape == logits.shape, group
                scale = max(1.0, float(np.abs(logits).max()))
                result[group] = [
                    float(np.abs(found["logits"] - logits).max()) / scale,
                    float(np.abs(found["scores"] - scores).max()),
                    float(((found["masks"] > 128) != masks).mean()),
                ]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
