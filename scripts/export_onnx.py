"""Turns an exported model (`hqsam export RUN --format pth`) into two ONNX graphs and checks them.

    .venv/bin/python scripts/export_onnx.py runs/hqsam_l/hqsam.pth --model-type vit_l

encoder.onnx   image (1, 3, S, S), float32, normalised and padded as SAM does
               -> image_embeddings (1, 256, S/16, S/16), interm_embeddings (blocks, 1, S/16, S/16, C)
decoder.onnx   the graph that the published HQ-SAM code exports: image_embeddings,
               interm_embeddings, point_coords (1, N, 2), point_labels (1, N),
               mask_input (1, 1, S/4, S/4), has_mask_input (1), orig_im_size (2)
               -> masks at orig_im_size, iou_predictions, low_res_masks (all logits)

Both are run with onnxruntime and compared with torch before success is reported, on other inputs than
they were traced with: another image, other numbers of points and sizes of the original, with and
without a mask. Exit code 1 and neither graph when a value differs by more than 1e-3. The model's card
goes with them as README.md. Packages: torch, segment-anything-hq, onnx, onnxruntime
(`make setup-python` installs them).
"""

import argparse
import contextlib
import io
import pickle
import sys
import tempfile
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
# Points, original size in parts of the input's side, and whether there is a mask. The decoder is traced
# with the first; what it then holds as a constant would be wrong for one of the others.
TRACED = (4, (0.75, 1.0), True)
CHECKED = [TRACED, (2, (1.0, 0.5), False), (1, (0.3, 0.2), True), (7, (1.1, 1.5), False)]
# Of points in turn: the corners of a box, object, background, padding.
LABELS = [2.0, 3.0, 1.0, 0.0, -1.0, 1.0, 0.0]


class Encoder(torch.nn.Module):
    """The image encoder, with its list of intermediate features as one tensor."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, intermediate = self.encoder(image)
        return features, torch.stack(list(intermediate))


def read_state(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        sys.exit(f"cannot read {path}: {error.strerror}")
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        sys.exit(f"{path} is no model that torch can load (`hqsam export RUN --format pth` makes one): {first}")


def load(model_type: str, path: Path) -> torch.nn.Module:
    state = read_state(path)
    if not isinstance(state, dict):
        sys.exit(f"{path} holds no state dict")
    # The registry prints the result of its own non-strict load.
    with contextlib.redirect_stdout(io.StringIO()):
        sam = sam_model_registry[model_type](checkpoint=None)
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


def decoder_inputs(side: int, features: torch.Tensor, intermediate: torch.Tensor, case: tuple) -> dict:
    points, size, has_mask = case
    mask_side = features.shape[-1] * 4
    generator = torch.Generator().manual_seed(points)
    return {
        "image_embeddings": features,
        "interm_embeddings": intermediate,
        "point_coords": torch.rand(1, points, 2, generator=generator) * side,
        # A single point is none of a box.
        "point_labels": torch.tensor([LABELS[:points] if points > 1 else [1.0]]),
        "mask_input": torch.randn(1, 1, mask_side, mask_side, generator=generator),
        "has_mask_input": torch.tensor([float(has_mask)]),
        "orig_im_size": torch.tensor([float(int(side * part)) for part in size]),
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


def largest_difference(path: Path, module: torch.nn.Module, cases: list[dict]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}
    largest = 0.0
    for inputs in cases:
        if missing := inputs.keys() - wanted:
            sys.exit(f"{path.name}: does not depend on its {', '.join(sorted(missing))}; nothing is left")
        expected = module(*inputs.values())
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for ours, theirs in zip(found, expected, strict=True):
            if ours.shape != tuple(theirs.shape):
                sys.exit(f"{path.name}: {ours.shape} where torch has {tuple(theirs.shape)}; nothing is left")
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
            # max() drops what is not a number.
            if not np.isfinite(ours).all():
                largest = float("nan")
                break
    return largest


def card(model: Path, options: str) -> str:
    """The card that `hqsam export` wrote beside the model, and what became of it here."""
    beside = model.with_suffix(".md")
    about = "# HQ-SAM\n\nThe training data, licences and results of this model are not known here.\n"
    text = beside.read_text() if beside.is_file() else about
    return (
        f"{text.rstrip()}\n\n## ONNX\n\n`encoder.onnx` and `decoder.onnx` were made from `{model.name}` "
        f"with {options} and checked with onnxruntime {onnxruntime.__version__}.\n"
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

    sam = load(arguments.model_type, arguments.model)
    side = sam.image_encoder.img_size
    # Exporting leaves a module in the mode that it says it is in, and a new one says training, in
    # which TinyViT's batch norms compute something else.
    encoder = Encoder(sam.image_encoder).eval()
    decoder = SamOnnxModel(
        sam, hq_token_only=not arguments.sum, multimask_output=arguments.multimask_output
    ).eval()
    generator = torch.Generator().manual_seed(1)
    images = [{"image": torch.randn(1, 3, side, side, generator=generator)} for _ in range(2)]
    points = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=folder) as staged:
        features = encoder(images[1]["image"])
        prompts = [decoder_inputs(side, *features, case) for case in CHECKED]
        jobs = [
            ("encoder", encoder, images, ["image_embeddings", "interm_embeddings"], {}),
            ("decoder", decoder, prompts, ["masks", "iou_predictions", "low_res_masks"], points),
        ]
        for name, module, cases, outputs, dynamic in jobs:
            path = Path(staged) / f"{name}.onnx"
            write(module, cases[0], outputs, path, dynamic)
            difference = largest_difference(path, module, cases)
            if not difference <= TOLERANCE:
                sys.exit(f"{name}: onnxruntime differs from torch by {difference:.2e}; nothing is left")
            print(f"{folder / path.name}: within {difference:.2e} of torch on {len(cases)} inputs")
        # A graph of more than 2 GB has its weights in files beside it.
        for path in Path(staged).iterdir():
            path.replace(folder / path.name)
    logits = "SAM's logits and the HQ logits" if arguments.sum else "the HQ logits"
    mask = "the best of SAM's three masks" if arguments.multimask_output else "a single mask"
    (folder / "README.md").write_text(card(arguments.model, f"{logits}, {mask}"))


if __name__ == "__main__":
    main()
