"""Runs scripts/export_onnx.py on a ViT of a few blocks, with each choice of the decoder's output.

Usage: export_small_onnx.py SCRIPT MODEL.pth SIZES.json
Writes a folder for each choice, and none for a decoder that holds the original size as a constant.
"""

import json
import runpy
import sys

import torch
from segment_anything_hq import sam_model_registry
from segment_anything_hq.utils.onnx import SamOnnxModel
from small_vit import assemble, vit

CHOICES = {
    "plain": [],
    "sum": ["--sum"],
    "multimask": ["--multimask-output"],
    "sum_multimask": ["--sum", "--multimask-output"],
}


def constant_size(self: SamOnnxModel, masks: torch.Tensor, orig_im_size: torch.Tensor) -> torch.Tensor:
    size = [int(side) for side in orig_im_size]
    return torch.nn.functional.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def main() -> None:
    script, model, sizes_file = sys.argv[1:]
    with open(sizes_file) as file:
        sizes = json.load(file)
    sam_model_registry["small"] = lambda checkpoint: assemble(vit(sizes), sizes["img_size"], sizes["embed_dim"])

    def export(folder: str, choice: list[str]) -> None:
        sys.argv = [script, model, "--model-type", "small", "--output", folder, *choice]
        runpy.run_path(script, run_name="__main__")

    for folder, choice in CHOICES.items():
        export(folder, choice)
    SamOnnxModel.mask_postprocessing = constant_size
    try:
        export("constant", [])
    except SystemExit as refusal:
        print(f"refused: {refusal}")


if __name__ == "__main__":
    main()
