"""Makes tests/golden/*.safetensors: what the published packages compute with small models.

Usage: make_goldens.py FOLDER

Weights and pixels follow from integer formulas (`weight`, `pixels`), which the test that replays the
files has as well, so that only prompts and outputs need to be stored. Everything is computed by
segment-anything-hq; transformers computes the encoder and the prompts once more, the decoder (HQ, summed,
the best of three masks, predicted IoU) with the correction that an exported folder's README.md gives, and
the masks in original sizes, and must agree before anything is written.
"""

import math
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything_hq import SamPredictor
from segment_anything_hq.modeling import Sam, TinyViT
from small_vit import assemble, vit
from transformers import SamHQConfig, SamHQModel, SamImageProcessor

VERSIONS = {"segment-anything-hq": "0.3", "transformers": "5.23.0", "timm": "0.9.16"}
SIDE = 160
"""Input of the small ViT: 10 x 10 tokens, which neither windows of 4 nor rows by 8 divide."""
EMBED_DIM = 64
GLOBAL_BLOCKS = [1, 2]
"""Two, so that taking the last instead of the first as intermediate features is seen."""
AGREEMENT = 1e-4
"""Largest difference of the packages, relative to the largest value."""

MIX = [0xBF58476D1CE4E5B9, 0x94D049BB133111EB]
GOLDEN_RATIO = 0x9E3779B97F4A7C15
EMBEDDINGS = ("_token.weight", "_tokens.weight", "_embed.weight", "gaussian_matrix")
POSITIONS = ("pos_embed", "rel_pos_h", "rel_pos_w", "attention_biases")


def uniform(name: str, count: int) -> np.ndarray:
    """Values in [-0.5, 0.5), multiples of 2^-24: SplitMix64 from the FNV-1a hash of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(key) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(GOLDEN_RATIO)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX[0])
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX[1])
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)


def weight(name: str, shape: list[int]) -> np.ndarray:
    """The tensor called `name`: every layer keeps about the variance of its input."""
    u = uniform(name, math.prod(shape)).reshape(shape)
    is_embedding = name.endswith(EMBEDDINGS) or ".point_embeddings." in name
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if is_embedding:
        return u * np.float32(math.sqrt(12.0))
    if name.endswith(POSITIONS):
        return u * np.float32(0.5)
    if name.endswith("running_var"):
        return u + np.float32(1.0)
    if len(shape) == 1 and name.endswith(".weight"):
        return u * np.float32(0.5) + np.float32(1.0)
    if len(shape) == 1:
        return u * np.float32(0.4)
    return u * np.float32(math.sqrt(12.0 / math.prod(shape[1:])))


def triangle(value: np.ndarray, period: int) -> np.ndarray:
    return np.abs(value % (2 * period) - period) * 255 // period


def pixels(number: int, height: int, width: int) -> np.ndarray:
    """8-bit RGB (H, W, 3) of two crossing triangle waves a channel."""
    y, x, c = np.indices((height, width, 3))
    first = triangle(x * (c + 2) + y * 3 + number * 17, 61)
    second = triangle(y * (5 - c) + x + number * 29, 43)
    return ((first + second) // 2).astype(np.uint8)


def build(image_encoder: torch.nn.Module, side: int, vit_dim: int) -> Sam:
    sam = assemble(image_encoder, side, vit_dim)
    state = {
        name: torch.from_numpy(weight(name, list(tensor.shape)))
        for name, tensor in sam.state_dict().items()
        if not name.endswith("attention_bias_idxs")
    }
    missing, unexpected = sam.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("attention_bias_idxs") for name in missing), missing
    # Only now: entering this mode, TinyViT lays out its attention biases and keeps that copy.
    return sam.eval()


def small_vit() -> Sam:
    sizes = {
        "depth": 3,
        "embed_dim": EMBED_DIM,
        "img_size": SIDE,
        "num_heads": 2,
        "global_attn_indexes": GLOBAL_BLOCKS,
        "window_size": 4,
    }
    return build(vit(sizes), SIDE, EMBED_DIM)


def small_tiny_vit() -> Sam:
    """The package's TinyViT takes 1024 x 1024 only and its last stage must be 320 wide."""
    encoder = TinyViT(
        img_size=1024,
        in_chans=3,
        num_classes=10,
        embed_dims=[8, 16, 20, 320],
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 10],
        window_sizes=[7, 7, 14, 7],
        mlp_ratio=4.0,
        drop_rate=0.0,
        drop_path_rate=0.0,
        use_checkpoint=False,
        mbconv_expand_ratio=4.0,
        local_conv_size=3,
        layer_lr_decay=0.8,
    )
    return build(encoder, 1024, 20)


def prompts(side: int) -> dict[str, dict[str, torch.Tensor]]:
    """Every kind and mixture, each for two objects; coordinates in pixels of the input."""
    s = side / 160
    boxes = torch.tensor([[12.0, 20, 101, 88], [40.5, 8.25, 150, 140]]) * s
    coords = torch.tensor(
        [[[30.0, 40], [90, 61], [5.5, 150], [120, 12.75]], [[80.0, 80], [100, 33], [64, 120], [150, 4]]]
    ) * s
    labels = torch.tensor([[1.0, 0, 1, 0], [0.0, 1, 1, 1]])
    grid = np.indices((side // 4, side // 4))
    waves = [triangle(grid[1] * (3 + n) + grid[0] * 2 + n * 7, 31) - 128 for n in range(2)]
    masks = torch.from_numpy(np.stack(waves)[:, None].astype(np.float32)) / 16

    def points(count: int, of: torch.Tensor = labels) -> dict[str, torch.Tensor]:
        return {"point_coords": coords[:, :count].clone(), "point_labels": of[:, :count].clone()}

    box, mask = {"boxes": boxes}, {"mask_inputs": masks}
    padded = torch.tensor([[1.0, 0, -1, -1], [1.0, 1, 1, -1]])
    return {
        "box": box,
        "point_foreground": points(1, torch.ones(2, 1)),
        "point_background": points(1, torch.zeros(2, 1)),
        "points": points(4),
        "points_padded": points(4, padded),
        "box_points": box | points(3),
        "mask": mask,
        "mask_box": mask | box,
        "mask_points": mask | points(2),
        "mask_box_points": mask | box | points(4),
    }


def decode(sam: Sam, features: tuple, prompt: dict, out: dict, name: str, step: int) -> None:
    points = (prompt["point_coords"], prompt["point_labels"]) if "point_coords" in prompt else None
    sparse, dense = sam.prompt_encoder(
        points=points, boxes=prompt.get("boxes"), masks=prompt.get("mask_inputs")
    )
    out |= {f"{name}.{part}": tensor for part, tensor in prompt.items()}
    out[f"{name}.sparse_prompt_embeddings"] = sparse
    if name == "mask":
        out[f"{name}.dense_prompt_embeddings"] = dense[:, ::16]
    for kind, multimask, hq_only in [("hq", False, True), ("sum", False, False), ("best", True, False)]:
        logits, iou = sam.mask_decoder(
            image_embeddings=features[0],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            hq_token_only=hq_only,
            interm_embeddings=features[1],
        )
        out[f"{name}.{kind}"] = logits[..., ::step, ::step]
        if kind != "hq":
            out[f"{name}.{kind}_iou"] = iou


def encode(sam: Sam, image: np.ndarray) -> tuple:
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return sam.image_encoder(sam.preprocess(tensor))


def vit_goldens(sam: Sam) -> dict[str, torch.Tensor]:
    out = {}
    sizes = [(SIDE, SIDE), (96, SIDE), (SIDE, 132)]
    features = [encode(sam, pixels(number, *size)) for number, size in enumerate(sizes)]
    for number, (embeddings, interm) in enumerate(features):
        assert len(interm) == len(GLOBAL_BLOCKS)
        out[f"image.{number}.size"] = torch.tensor(sizes[number])
        out[f"image.{number}.image_embeddings"] = embeddings[:, ::8]
        out[f"image.{number}.interm_embeddings"] = interm[0][..., ::4]
    for name, prompt in prompts(SIDE).items():
        decode(sam, features[0], prompt, out, name, step=3)
    # One object on each of two images, to be decoded in one call.
    pair = [prompts(SIDE)["box_points"][part] for part in ("boxes", "point_coords", "point_labels")]
    parts = []
    for number in range(2):
        boxes, coords, labels = (tensor[number : number + 1] for tensor in pair)
        one = {"boxes": boxes, "point_coords": coords, "point_labels": labels}
        decode(sam, features[number + 1], one, each := {}, "images", step=3)
        parts.append(each)
    out |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return out


def tiny_vit_goldens(sam: Sam) -> dict[str, torch.Tensor]:
    out = {}
    features = encode(sam, pixels(0, 700, 1024))
    out["image.0.size"] = torch.tensor([700, 1024])
    out["image.0.image_embeddings"] = features[0][:, ::16, ::5, ::5]
    out["image.0.interm_embeddings"] = features[1][0][:, ::5, ::5]
    for name in ("box", "points"):
        decode(sam, features, prompts(1024)[name], out, name, step=13)
    return out


def predict_goldens(sam: Sam) -> dict[str, torch.Tensor]:
    """Whole predictions in original sizes: larger, smaller, equal, and a narrow strip."""
    out = {}
    predictor = SamPredictor(sam)
    cases = [
        ("larger", (240, 181), False, True),
        ("smaller", (75, 110), False, False),
        ("equal", (SIDE, SIDE), True, False),
        ("strip", (300, 33), False, False),
    ]
    for number, (name, (height, width), multimask, hq_only) in enumerate(cases):
        predictor.set_image(pixels(number + 5, height, width))
        box = np.array([width // 8, height // 5, width * 3 // 4, height * 4 // 5], dtype=np.float32)
        coords = np.array([[width // 2, height // 3], [width // 4, height * 3 // 4]], dtype=np.float32)
        masks, iou, logits = predictor.predict(
            point_coords=coords,
            point_labels=np.array([1, 0]),
            box=box,
            multimask_output=multimask,
            hq_token_only=hq_only,
        )
        out[f"{name}.size"] = torch.tensor([height, width])
        out[f"{name}.box"] = torch.from_numpy(box)
        out[f"{name}.coords"] = torch.from_numpy(coords)
        out[f"{name}.flags"] = torch.tensor([multimask, hq_only]).to(torch.int64)
        out[f"{name}.low_res_logits"] = torch.from_numpy(logits)
        out[f"{name}.iou"] = torch.from_numpy(iou)
        out[f"{name}.mask_bits"] = torch.from_numpy(np.packbits(masks.reshape(-1)))
    return out


TRANSFORMERS_NAMES = [
    ("image_encoder", "vision_encoder"),
    ("vision_encoder.blocks", "vision_encoder.layers"),
    ("patch_embed.proj", "patch_embed.projection"),
    (".norm_final_attn", ".layer_norm_final_attn"),
    (".norm", ".layer_norm"),
    ("neck.0", "neck.conv1"),
    ("neck.1", "neck.layer_norm1"),
    ("neck.2", "neck.conv2"),
    ("neck.3", "neck.layer_norm2"),
    ("point_embeddings", "point_embed"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("mask_downscaling.0", "mask_embed.conv1"),
    ("mask_downscaling.1", "mask_embed.layer_norm1"),
    ("mask_downscaling.3", "mask_embed.conv2"),
    ("mask_downscaling.4", "mask_embed.layer_norm2"),
    ("mask_downscaling.6", "mask_embed.conv3"),
    ("output_upscaling.0", "upscale_conv1"),
    ("output_upscaling.1", "upscale_layer_norm"),
    ("output_upscaling.3", "upscale_conv2"),
    ("hf_token", "hq_token"),
    ("hf_mlp", "hq_mask_mlp"),
    ("compress_vit_feat.0", "compress_vit_conv1"),
    ("compress_vit_feat.1", "compress_vit_norm"),
    ("compress_vit_feat.3", "compress_vit_conv2"),
    ("embedding_encoder.0", "encoder_conv1"),
    ("embedding_encoder.1", "encoder_norm"),
    ("embedding_encoder.3", "encoder_conv2"),
    ("embedding_maskfeature.0", "mask_conv1"),
    ("embedding_maskfeature.1", "mask_norm"),
    ("embedding_maskfeature.3", "mask_conv2"),
]


def transformers_name(name: str) -> str:
    for published, other in TRANSFORMERS_NAMES:
        name = name.replace(published, other)
    if any(part in name for part in ("mlps.", "iou_prediction_head", "hq_mask_mlp")):
        for published, other in [("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out")]:
            if published in name:
                return name.replace(published, other)
    return name


def transformers_model(sam: Sam) -> SamHQModel:
    vision = {
        "hidden_size": EMBED_DIM,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "mlp_dim": 4 * EMBED_DIM,
        "window_size": 4,
        "global_attn_indexes": GLOBAL_BLOCKS,
    }
    config = SamHQConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": SIDE},
        # torch's default, which the two-way transformer has; that of transformers is 1e-6.
        mask_decoder_config={"vit_dim": EMBED_DIM, "layer_norm_eps": 1e-5},
    )
    model = SamHQModel(config).eval()
    state = {transformers_name(name): tensor for name, tensor in sam.state_dict().items()}
    key = "shared_image_embedding.positional_embedding"
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[key]
    model.load_state_dict(state, strict=True)
    keys = {}
    decoder = model.mask_decoder
    decoder.transformer.register_forward_hook(lambda _, inputs, output: keys.update(image=output[1]))
    decoder.upscale_conv1.register_forward_pre_hook(
        lambda _, inputs: (keys["image"].transpose(2, 3).reshape(inputs[0].shape),)
    )
    return model


def agree(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    difference = (found.reshape(expected.shape) - expected).abs().max()
    assert difference <= AGREEMENT * max(1.0, float(expected.abs().max())), f"{name}: {difference}"


def check_transformers(sam: Sam, goldens: dict[str, torch.Tensor]) -> None:
    model = transformers_model(sam)
    image = torch.from_numpy(pixels(0, SIDE, SIDE)).permute(2, 0, 1)[None].float()
    embeddings, interm = model.get_image_embeddings(sam.preprocess(image))
    agree("image embeddings", embeddings[:, ::8], goldens["image.0.image_embeddings"])
    agree("intermediate", interm[0][..., ::4], goldens["image.0.interm_embeddings"])
    # Prompts with masks exist a whole image each: the image twice, one object on each.
    embeddings, interm = embeddings.repeat(2, 1, 1, 1), [interm[0].repeat(2, 1, 1, 1)]
    positions = model.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1)
    for name, prompt in prompts(SIDE).items():
        each = {part: tensor[:, None] for part, tensor in prompt.items()}
        sparse, dense = model.prompt_encoder(
            input_points=each.get("point_coords"),
            input_labels=each.get("point_labels"),
            input_boxes=each.get("boxes"),
            input_masks=prompt.get("mask_inputs"),
        )
        if sparse is not None:
            agree(f"{name} sparse", sparse[:, 0], goldens[f"{name}.sparse_prompt_embeddings"])
        for kind, hq_only, multimask in [("hq", True, False), ("sum", False, False), ("best", False, True)]:
            logits, iou = model.mask_decoder(
                image_embeddings=embeddings,
                image_positional_embeddings=positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                hq_token_only=hq_only,
                intermediate_embeddings=interm,
            )
            # Of three masks the one of the highest predicted IoU is the first.
            agree(f"{name} {kind}", logits[:, :, :1, ::3, ::3], goldens[f"{name}.{kind}"])
            if not hq_only:
                agree(f"{name} {kind} IoU", iou[:, :, :1], goldens[f"{name}.{kind}_iou"])


def check_transformers_masks(goldens: dict[str, torch.Tensor]) -> None:
    """The processor's masks in original sizes, from the published predictor's logits."""
    processor = SamImageProcessor(pad_size={"height": SIDE, "width": SIDE})
    for name in sorted({key.split(".")[0] for key in goldens}):
        height, width = goldens[f"{name}.size"].tolist()
        scale = SIDE / max(height, width)
        reshaped = [[int(height * scale + 0.5), int(width * scale + 0.5)]]
        logits = goldens[f"{name}.low_res_logits"]
        masks = processor.post_process_masks([logits[None]], [[height, width]], reshaped)[0]
        bits = torch.from_numpy(np.packbits(masks.numpy().reshape(-1)))
        assert torch.equal(bits, goldens[f"{name}.mask_bits"]), f"{name}: another mask"


def write(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    contiguous = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
    save_file(contiguous, folder / f"{name}.safetensors", metadata={"made_by": "make_goldens.py"})


def main() -> None:
    folder = Path(sys.argv[1])
    for package, needed in VERSIONS.items():
        assert version(package) == needed, f"{package} {needed} is needed, found {version(package)}"
    with torch.no_grad():
        sam = small_vit()
        goldens = vit_goldens(sam)
        check_transformers(sam, goldens)
        predictions = predict_goldens(sam)
        check_transformers_masks(predictions)
        write(folder, "vit", goldens)
        write(folder, "predict", predictions)
        write(folder, "tiny_vit", tiny_vit_goldens(small_tiny_vit()))


if __name__ == "__main__":
    main()
