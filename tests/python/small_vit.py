"""A SAM around any image encoder, with and without the HQ part, from the published modules."""

from functools import partial

import torch
from segment_anything_hq.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    MaskDecoderHQ,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)


def vit(sizes: dict) -> ImageEncoderViT:
    """A ViT with random weights."""
    return ImageEncoderViT(
        depth=sizes["depth"],
        embed_dim=sizes["embed_dim"],
        img_size=sizes["img_size"],
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=sizes["num_heads"],
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=sizes["global_attn_indexes"],
        window_size=sizes["window_size"],
        out_chans=256,
    )


def assemble(image_encoder: torch.nn.Module, side: int, vit_dim: int | None) -> Sam:
    """`image_encoder` with published prompt encoder and decoder; plain SAM's without a `vit_dim`."""
    decoder = MaskDecoder if vit_dim is None else partial(MaskDecoderHQ, vit_dim=vit_dim)
    return Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(side // 16, side // 16),
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        mask_decoder=decoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def build(path: str, sizes: dict, hq: bool) -> Sam:
    """The ViT model of the state dict in `path`; without `hq` the plain SAM in it."""
    sam = assemble(vit(sizes), sizes["img_size"], sizes["embed_dim"] if hq else None)
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = sam.load_state_dict(state, strict=False)
    assert not missing, missing
    assert not (hq and unexpected), unexpected
    return sam.eval()
