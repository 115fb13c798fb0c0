"""Opens an exported model with segment-anything-hq and compares its low-resolution HQ logits.

Usage: compare_predict.py MODEL_TYPE MODEL.pth|MODEL.safetensors IMAGE LOGITS.safetensors X0,Y0,X1,Y1 X,Y
Prints one JSON object: missing and unexpected keys, largest absolute difference.
"""

import contextlib
import io
import json
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from segment_anything_hq import SamPredictor, sam_model_registry


def numbers(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.split(",")], dtype=np.float32)


def main() -> None:
    model_type, model_path, image_path, logits_path, box, point = sys.argv[1:]
    # The registry prints the result of a non-strict load; a strict comparison follows here.
    with contextlib.redirect_stdout(io.StringIO()):
        sam = sam_model_registry[model_type](checkpoint=None)
    if model_path.endswith(".safetensors"):
        state = load_file(model_path)
    else:
        state = torch.load(model_path, map_location="cpu", weights_only=True)
    missing, unexpected = sam.load_state_dict(state, strict=False)
    sam.eval()

    predictor = SamPredictor(sam)
    with torch.no_grad():
        predictor.set_image(np.asarray(Image.open(image_path).convert("RGB")))
        _, _, low_res_logits = predictor.predict(
            point_coords=numbers(point)[None],
            point_labels=np.ones(1, dtype=np.int64),
            box=numbers(box),
            multimask_output=False,
            hq_token_only=True,
        )
    ours = load_file(logits_path)["low_res_logits"].numpy().reshape(low_res_logits.shape)
    print(
        json.dumps(
            {
                "missing": list(missing),
                "unexpected": list(unexpected),
                "max_difference": float(np.abs(ours - low_res_logits).max()),
            }
        )
    )


if __name__ == "__main__":
    main()
