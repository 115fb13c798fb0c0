"""Prints, as JSON, the seconds and the peak memory of one published training step, rebuilt from PyPI
`segment-anything-hq` and torch in float32: the frozen SAM with its own mask decoder and masks upsampled
to 1024, then the HQ decoder image by image, the point-sampled loss, backward and Adam.

    peer_train_step.py ENCODER BATCH STEPS WARM_UP     ENCODER: vit_b, vit_l, vit_h or vit_tiny
"""

import json
import statistics
import sys
import time

import torch
from segment_anything_hq import sam_model_registry
from segment_anything_hq.modeling import TwoWayTransformer
from segment_anything_hq.modeling.mask_decoder import MaskDecoder
from torch.nn import functional

SIDE, LOGITS, THREADS, SEED = 1024, 256, 2, 42
NUM_POINTS, OVERSAMPLE, IMPORTANCE = 112 * 112, 3.0, 0.75
HQ_PARTS = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")


def models(encoder):
    """The frozen SAM, its plain mask decoder, and the HQ decoder with its trained parameters."""
    sam = sam_model_registry[encoder]().eval()
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    plain = MaskDecoder(transformer_dim=256, transformer=transformer)
    for part in (sam, plain):
        part.requires_grad_(False)
    trained = [p for name, p in sam.mask_decoder.named_parameters() if name.startswith(HQ_PARTS)]
    for parameter in trained:
        parameter.requires_grad_(True)
    return sam, plain, trained


def samples(batch):
    """Boxes and points in turn on drawn ellipses."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for index in range(batch):
        image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
        radius = 150.0 + 60 * index
        inside = ((rows - 500.0) / radius) ** 2 + ((columns - 480.0) / (1.5 * radius)) ** 2 < 1
        if index % 2 == 0:
            found = inside.nonzero()
            (top, left), (bottom, right) = found.min(0).values.tolist(), found.max(0).values.tolist()
            prompt = {"boxes": torch.tensor([[left, top, right, bottom]], dtype=torch.float32)}
        else:
            found = inside.nonzero()
            points = found[torch.randperm(len(found))[:10]].flip(1)[None].float()
            prompt = {"point_coords": points, "point_labels": torch.ones(1, 10)}
        yield image, inside[None].float() * 255, prompt


@torch.no_grad()
def frozen_sam(sam, plain, records):
    """What the published trainer asks of SAM in each step, masks included, which it does not use."""
    inputs = torch.stack([sam.preprocess(image.float()) for image, _ in records])
    embeddings, interm = sam.image_encoder(inputs)
    image_pe = sam.prompt_encoder.get_dense_pe()
    outputs = []
    for (_, prompt), embedding in zip(records, embeddings):
        points = (prompt["point_coords"], prompt["point_labels"]) if "point_coords" in prompt else None
        sparse, dense = sam.prompt_encoder(points=points, boxes=prompt.get("boxes"), masks=None)
        low_res, _ = plain(
            image_embeddings=embedding[None],
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            hq_token_only=False,
            interm_embeddings=None,
        )
        masks = functional.interpolate(low_res, (SIDE, SIDE), mode="bilinear", align_corners=False) > 0
        outputs.append((embedding[None], sparse, dense, masks))
    return outputs, interm[0], image_pe


def sample_points(maps, points):
    return functional.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def loss_of(logits, target):
    """Point-sampled binary cross-entropy plus dice."""
    count, random = len(logits), NUM_POINTS - int(IMPORTANCE * NUM_POINTS)
    with torch.no_grad():
        candidates = torch.rand(count, int(NUM_POINTS * OVERSAMPLE), 2)
        uncertain = -sample_points(logits, candidates).abs()
        index = uncertain[:, 0].topk(NUM_POINTS - random, dim=1).indices
        chosen = candidates.gather(1, index[..., None].expand(-1, -1, 2))
        points = torch.cat([chosen, torch.rand(count, random, 2)], 1)
        labels = sample_points(target, points)[:, 0]
    at_points = sample_points(logits, points)[:, 0]
    mask = functional.binary_cross_entropy_with_logits(at_points, labels, reduction="none").mean(1).sum() / count
    inside = at_points.sigmoid()
    dice = 1 - (2 * (inside * labels).sum(-1) + 1) / (inside.sum(-1) + labels.sum(-1) + 1)
    return mask + dice.sum() / count


def main(encoder, batch, steps, warm_up):
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    sam, plain, trained = models(encoder)
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    drawn = list(samples(batch))
    records = [(image, prompt) for image, _, prompt in drawn]
    target = torch.stack([mask for _, mask, _ in drawn]) / 255
    times = {"step": [], "sam": [], "decoder": []}
    for step in range(warm_up + steps):
        start = time.perf_counter()
        outputs, interm, image_pe = frozen_sam(sam, plain, records)
        encoded = time.perf_counter()
        logits = torch.cat(
            [
                sam.mask_decoder(
                    image_embeddings=embedding,
                    image_pe=image_pe,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                    hq_token_only=True,
                    interm_embeddings=interm[index][None, None],
                )[0]
                for index, (embedding, sparse, dense, _) in enumerate(outputs)
            ]
        )
        decoded = time.perf_counter()
        loss = loss_of(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        end = time.perf_counter()
        if step >= warm_up:
            times["step"].append(end - start)
            times["sam"].append(encoded - start)
            times["decoder"].append(decoded - encoded)
    with open("/proc/self/status") as status:
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    report = {f"{part}_secs": statistics.median(values) for part, values in times.items()}
    print(json.dumps({**report, "peak_resident_mib": peak_kib // 1024, "torch": torch.__version__}))


main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
