"""Counts the operations of the published decoder's parts with torch's own counter.

Usage: count_decoder_flops.py
Prints those of the two-way transformer, forward and backward, for 64 x 64 image tokens and 8 tokens of
which one, HQ-SAM's, is trained; of SAM's upscaling, the same; and of the first convolution of each branch
of the HQ part for ViT-B. The numbers are those of the test in trainer/src/model/flops.rs.
"""

import torch
from segment_anything_hq.modeling import MaskDecoderHQ, TwoWayTransformer
from torch.utils.flop_counter import FlopCounterMode


def count(forward) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter:
        out = forward()
    before = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        sum(part.sum() for part in out).backward()
    return before, counter.get_total_flops()


def main() -> None:
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoderHQ(transformer_dim=256, transformer=transformer, vit_dim=768)
    transformer.requires_grad_(False)
    decoder.output_upscaling.requires_grad_(False)
    image, positions = torch.rand(1, 256, 64, 64), torch.rand(1, 256, 64, 64)
    token = torch.rand(1, 1, 256, requires_grad=True)
    others = torch.rand(1, 7, 256)

    def transform() -> tuple:
        return transformer(image, positions, torch.cat([token, others], 1))

    keys = torch.rand(1, 256, 64, 64, requires_grad=True)
    print("transformer", *count(transform))
    print("upscaling", *count(lambda: (decoder.output_upscaling(keys),)))
    branches = {
        "embedding_encoder": torch.rand(1, 256, 64, 64),
        "compress_vit_feat": torch.rand(1, 768, 64, 64),
        "embedding_maskfeature": torch.rand(1, 32, 256, 256, requires_grad=True),
    }
    for name, features in branches.items():
        first = getattr(decoder, name)[0]
        print(name, *count(lambda first=first, features=features: (first(features),)))


if __name__ == "__main__":
    main()
