"""Opens an exported folder with transformers and compares its low-resolution HQ logits.

Usage: compare_transformers.py FOLDER IMAGE LOGITS.safetensors X0,Y0,X1,Y1 X,Y
Prints one JSON object: missing and unexpected keys, largest absolute difference as transformers is
and with the correction that the folder's README.md gives, which is taken from there and run.
"""

import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import SamHQModel, SamHQProcessor


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    folder, image_path, logits_path, box, point = sys.argv[1:]
    model, info = SamHQModel.from_pretrained(folder, output_loading_info=True)
    processor = SamHQProcessor.from_pretrained(folder)
    inputs = processor(
        images=Image.open(image_path).convert("RGB"),
        input_boxes=[[numbers(box)]],
        input_points=[[[numbers(point)]]],
        input_labels=[[[1]]],
        return_tensors="pt",
    )
    card = (Path(folder) / "README.md").read_text()
    correction = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    logits = load_file(logits_path)["low_res_logits"]

    def difference() -> float:
        with torch.no_grad():
            found = model.eval()(**inputs, multimask_output=False, hq_token_only=True).pred_masks
        return float((logits.reshape(found.shape) - found).abs().max())

    as_it_is = difference()
    exec(correction, {"model": model})  # noqa: S102, the text is our own
    print(
        json.dumps(
            {
                "missing": sorted(info["missing_keys"]),
                "unexpected": sorted(info["unexpected_keys"]),
                "mismatched": sorted(str(key) for key in info["mismatched_keys"]),
                "as_it_is": as_it_is,
                "max_difference": difference(),
            }
        )
    )


if __name__ == "__main__":
    main()
