"""Turns an exported model (`hqsam export RUN --format pth`) into two ONNX graphs and checks them.

    .venv/bin/python scripts/export_onnx.py runs/hqsam_l/hqsam.pth --model-type vit_l

encoder.onnx   image (1, 3, S, S), float32, normalised and padded as SAM does
               -> image_embeddings (1, 256, S/16, S/16), interm_embeddings (blocks, 1, S/16, S/16, C)
decoder.onnx   the graph that the published HQ-SAM code exports: image_embeddings,
               interm_embeddings, point_coords (1, N, 2), point_labels (1, N),
               mask_input (1, 1, S/4, S/4), has_mask_input (1), orig_im_size (2)
               -> masks at orig_im_size, iou_predictions, low_res_masks (all logits)

Both are run with onnxruntime and compared with torch before success is reported; exit code 1 and no
graph left behind when a value differs by more than 1e-3. Packages: torch, segment-anything-hq,
onnx, onnxruntime (`make setup-python` installs them).
"""

import argparse
import contextlib
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

# On import, the published package registers its TinyViT anew and warns of it.
warnings.filterwarnings("ignore", message="Overwriting .* in registry")
from segment_anything_hq import sam_model_registry  # noqa: E402
from segment_anything_hq.utils.onnx import SamOnnxModel  # noqa: E402

OPSET = 17
TOLERANCE = 1e-3


class Encoder(torch.nn.Module):
    """The image encoder, with its list of intermediate features as one tensor."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, intermediate = self.encoder(image)
        return features, torch.stack(list(intermediate))


def load(model_type: str, path: Path) -> torch.nn.Module:
    # The registry prints the result of its own non-strict load.
    with contextlib.redirect_stdout(io.StringIO()):
        sam = sam_model_registry[model_type](checkpoint=None)
    state = torch.load(path, map_location="cpu", weights_only=True)
    needed = sam.state_dict()
    missing = sorted(needed.keys() - state.keys())
    unexpected = sorted(state.keys() - needed.keys())
    reshaped = [n for n in needed.keys() & state.keys() if needed[n].shape != state[n].shape]
    groups = [("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(reshaped))]
    if any(names for _, names in groups):
        found = "; ".join(f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in groups if names)
        sys.exit(f"{path} is no {model_type} HQ-SAM: {found}")
    sam.load_state_dict(state)
    return sam.eval()


def decoder_inputs(sam: torch.nn.Module, features: torch.Tensor, intermediate: torch.Tensor) -> dict:
    side = sam.image_encoder.img_size
    mask_side = features.shape[-1] * 4
    generator = torch.Generator().manual_seed(0)
    return {
        "image_embeddings": features,
        "interm_embeddings": intermediate,
        # A box as two corners, one positive and one negative point.
        "point_coords": torch.rand(1, 4, 2, generator=generator) * side,
        "point_labels": torch.tensor([[2.0, 3.0, 1.0, 0.0]]),
        "mask_input": torch.randn(1, 1, mask_side, mask_side, generator=generator),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([side * 3 // 4, side], dtype=torch.float32),
    }


def write(module: torch.nn.Module, inputs: dict, outputs: list[str], path: Path, dynamic: dict) -> None:
    with warnings.catch_warnings():
        # Tracing warns of every size that it takes as a constant; the check below decides.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )


def largest_difference(path: Path, inputs: dict, expected: tuple) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}
    feed = {name: value.numpy() for name, value in inputs.items() if name in wanted}
    found = session.run(None, feed)
    return max(
        float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in zip(found, expected, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="merged HQ-SAM model (.pth)")
    parser.add_argument("--model-type", required=True, choices=sorted(sam_model_registry))
    parser.add_argument("--output", type=Path, help="folder; default: beside the model")
    parser.add_argument("--sum", action="store_true", help="SAM's logits plus the HQ logits, not HQ alone")
    parser.add_argument("--multimask-output", action="store_true", help="the best of SAM's three masks")
    arguments = parser.parse_args()
    folder = arguments.output or arguments.model.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)

    sam = load(arguments.model_type, arguments.model)
    side = sam.image_encoder.img_size
    encoder = Encoder(sam.image_encoder)
    decoder = SamOnnxModel(
        sam, hq_token_only=not arguments.sum, multimask_output=arguments.multimask_output
    )
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, intermediate = encoder(image)
        inputs = decoder_inputs(sam, features, intermediate)
        masks = decoder(*inputs.values())
        points = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
        jobs = [
            ("encoder", encoder, {"image": image}, ["image_embeddings", "interm_embeddings"], {},
             (features, intermediate)),
            ("decoder", decoder, inputs, ["masks", "iou_predictions", "low_res_masks"], points, masks),
        ]
        for name, module, given, outputs, dynamic, expected in jobs:
            path = folder / f"{name}.onnx"
            write(module, given, outputs, path, dynamic)
            difference = largest_difference(path, given, expected)
            if not difference <= TOLERANCE:
                path.unlink()
                sys.exit(f"{name}: onnxruntime differs from torch by {difference:.2e}; removed {path}")
            print(f"{path}: within {difference:.2e} of torch")


if __name__ == "__main__":
    main()
