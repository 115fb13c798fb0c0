"""Opens an exported folder with transformers and compares what it predicts with `hqsam predict`.

Usage: compare_transformers.py FOLDER CASES.json
Each case names an image, its prompts (`box`, `points` as x, y, label, `mask`: a file of logits), the
outputs asked for (`hq_only`, `multimask`), and the files that `hqsam predict` wrote: `logits`
(safetensors, with predicted IoU) and `png`, the mask in the image's own size.
Prints one JSON object: missing and unexpected keys; the largest difference of the first case's logits
with transformers as it is; and with the correction that the folder's README.md gives, which is taken
from there and run, the largest difference of each case's logits and predicted IoU and the share of the
mask's pixels that differ after the processor's own post-processing.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import SamHQModel, SamHQProcessor


def predict(model: SamHQModel, processor: SamHQProcessor, case: dict) -> tuple[torch.Tensor, ...]:
    """Logits (1, 1, 1, h, w), predicted IoU (1, 1, 1) and the mask in the image's size."""
    prompts = {}
    if "box" in case:
        prompts["input_boxes"] = [[case["box"]]]
    if "points" in case:
        prompts["input_points"] = [[[point[:2] for point in case["points"]]]]
        prompts["input_labels"] = [[[point[2] for point in case["points"]]]]
    inputs = processor(images=Image.open(case["image"]).convert("RGB"), return_tensors="pt", **prompts)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    if "mask" in case:
        inputs["input_masks"] = load_file(case["mask"])["low_res_logits"]
    with torch.no_grad():
        found = model(**inputs, multimask_output=case["multimask"], hq_token_only=case["hq_only"])
    # Of three masks the one of the highest predicted IoU is the first.
    logits, iou = found.pred_masks[:, :, :1], found.iou_scores[:, :, :1]
    return logits, iou, processor.post_process_masks([logits[0]], *sizes)[0]


def main() -> None:
    folder, cases = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    model, info = SamHQModel.from_pretrained(folder, output_loading_info=True)
    model.eval()
    processor = SamHQProcessor.from_pretrained(folder)
    card = (Path(folder) / "README.md").read_text()
    correction = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)

    def compare(case: dict) -> dict[str, float]:
        logits, iou, mask = predict(model, processor, case)
        ours = load_file(case["logits"])
        pixels = np.asarray(Image.open(case["png"])) > 0
        assert mask[0, 0].shape == pixels.shape, f"{mask.shape} and {pixels.shape}"
        differences = {
            "logits": float((ours["low_res_logits"].reshape(logits.shape) - logits).abs().max()),
            "pixels": float((mask[0, 0].numpy() != pixels).mean()),
        }
        if not case["hq_only"]:
            differences["iou"] = float((ours["iou_predictions"].reshape(iou.shape) - iou).abs().max())
        return differences

    first = next(iter(cases.values()))
    as_it_is = compare(first)["logits"]
    exec(correction, {"model": model})  # noqa: S102, the text is our own
    print(
        json.dumps(
            {
                "missing": sorted(info["missing_keys"]),
                "unexpected": sorted(info["unexpected_keys"]),
                "mismatched": sorted(str(key) for key in info["mismatched_keys"]),
                "as_it_is": as_it_is,
                "cases": {name: compare(case) for name, case in cases.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
