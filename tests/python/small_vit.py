"""A SAM with a ViT of any size, with and without the HQ part, from the published modules."""

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


def build(path: str, sizes: dict, hq: bool) -> Sam:
    """The model of the state dict in `path`; without `hq` the plain SAM in it."""
    grid = sizes["img_size"] // 16
    decoder = MaskDecoderHQ if hq else MaskDecoder
    sam = Sam(
        image_encoder=ImageEncoderViT(
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
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes["img_size"], sizes["img_size"]),
            mask_in_chans=16,
        ),
        mask_decoder=decoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            **({"vit_dim": sizes["embed_dim"]} if hq else {}),
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = sam.load_state_dict(state, strict=False)
    assert not missing, missing
    assert not (hq and unexpected), unexpected
    return sam.eval()
