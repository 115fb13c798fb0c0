"""Saves checkpoints of every kind, sound and odd, as the published packages and torch.save write them.

Usage: make_checkpoints.py FOLDER

The weights are those of make_goldens.py: a ViT of three blocks.
"""

import argparse
import os
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from make_goldens import small_vit, transformers_model
from safetensors.torch import save_file
from segment_anything_hq import sam_model_registry

HQ = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def plain(state: dict) -> OrderedDict:
    """Without HQ tensors."""
    return OrderedDict((k, v) for k, v in state.items() if not any(part in k for part in HQ))


def sound(folder: Path, sam: torch.nn.Module) -> None:
    state = sam.state_dict()
    torch.save(plain(state), folder / "sam.pth")
    torch.save(state, folder / "sam_hq.pth")
    # As the published trainer saves one an epoch, and the SAM decoder it starts from.
    torch.save(sam.mask_decoder.state_dict(), folder / "epoch_11.pth")
    torch.save(plain(sam.mask_decoder.state_dict()), folder / "sam_maskdecoder.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "sam_hq.safetensors")
    transformers_model(sam).save_pretrained(folder / "transformers")
    torch.save(plain(sam_model_registry["vit_tiny"](checkpoint=None).state_dict()), folder / "mobile_sam.pth")

    torch.save(torch.nn.DataParallel(sam).state_dict(), folder / "data_parallel.pth")
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    training = {
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, output=Path("runs")),
        "loss": np.float64(0.25),
    }
    torch.save(training | {"model": state}, folder / "training.pth")
    lightning = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 1, "state_dict": lightning, "hyper_parameters": {"lr": 0.1}}, folder / "lightning.ckpt")
    torch.save({name: tensor.double() for name, tensor in state.items()}, folder / "double.pth")
    # Views of one storage, transposed in memory, and parameters instead of tensors.
    shared = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    for name, tensor in state.items():
        if tensor.dim() == 2:
            shared[name] = tensor.t().contiguous().t()
    torch.save(shared, folder / "views.pth")


def odd(folder: Path, state: dict) -> None:
    whole = (folder / "sam_hq.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "empty_file.pth").write_bytes(b"")
    (folder / "page.pth").write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    (folder / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (folder / "flipped.pth").write_bytes(flipped)
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state, "extra": Harm(f"touch {folder / 'harmed'}")}, folder / "harm.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")
    torch.save({}, folder / "nothing.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    torch.save([1, 2], folder / "list.pth")
    token = "mask_decoder.iou_token.weight"
    torch.save(state | {token: torch.zeros(1, 128)}, folder / "shape.pth")
    torch.save(state | {token: torch.zeros(1, 256, dtype=torch.int64)}, folder / "integers.pth")
    torch.save({k: v for k, v in state.items() if ".blocks.2." not in k}, folder / "block.pth")
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, folder / "other.pth")


def main() -> None:
    folder = Path(sys.argv[1])
    sam = small_vit()
    sound(folder, sam)
    odd(folder, sam.state_dict())


if __name__ == "__main__":
    main()
