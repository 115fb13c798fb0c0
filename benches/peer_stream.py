"""The published training loader's steps, one thread, over the same files: what `hqseg` is compared with.

Written from the description of the steps: skimage reads image and mask, both become float32, a flip
for half of the pairs, large-scale jitter with torch's bilinear interpolation without antialias, crop
or padding to 1024, then box, points and noise mask for every sample (the published code computes all
three and uses one) and the image as uint8.

    peer_stream.py IMAGES MASKS COUNT     prints one JSON object
"""

import io
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import io as skio

SIZE = 1024
torch.set_num_threads(1)


def read(path):
    image = skio.imread(path)
    if image.ndim < 3:
        image = np.repeat(image[:, :, None], 3, axis=2)
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)


def read_mask(path):
    mask = skio.imread(path)
    if mask.ndim > 2:
        mask = mask[:, :, 0]
    return torch.from_numpy(mask.astype(np.float32))[None]


def jitter(image, label):
    height, width = image.shape[-2:]
    scale = torch.rand(1) * (2.0 - 0.1) + 0.1
    target = torch.round(SIZE * scale)
    factor = torch.minimum(target / height, target / width)
    new = torch.round(torch.tensor([height, width]) * factor).long().tolist()
    image = F.interpolate(image[None], new, mode="bilinear")[0]
    label = F.interpolate(label[None], new, mode="bilinear")[0]
    kept = [min(SIZE, side) for side in new]
    top, left = (np.random.randint(0, max(side - SIZE, 0) + 1) for side in new)
    image = image[:, top : top + kept[0], left : left + kept[1]]
    label = label[:, top : top + kept[0], left : left + kept[1]]
    padding = (0, SIZE - kept[1], 0, SIZE - kept[0])
    return F.pad(image, padding, value=128), F.pad(label, padding, value=0)


def box(mask):
    foreground = mask[0] > 128
    ys, xs = torch.where(foreground)
    if len(xs) == 0:
        return torch.tensor([1e8, 1e8, 0, 0])
    return torch.stack([xs.min(), ys.min(), xs.max(), ys.max()]).float()


def points(mask):
    found = torch.argwhere(mask[0] > 128)
    return found[torch.randperm(len(found))[:10]].flip(1)


def noise_mask(mask):
    small = F.interpolate(mask[None], (256, 256), mode="bilinear") / 255
    detour = F.interpolate(F.interpolate(small, (32, 32), mode="bilinear"), (256, 256), mode="bilinear")
    band = (torch.abs(small - detour) >= 0.01).float()
    return ((small + torch.randn_like(small) * band) > 0.5).float() * 255


def sample(image_path, mask_path):
    image, label = read(image_path), read_mask(mask_path)
    if random.random() >= 0.5:
        image, label = torch.flip(image, dims=[2]), torch.flip(label, dims=[2])
    image, label = jitter(image, label)
    prompts = box(label), points(label), noise_mask(label)
    return image.permute(1, 2, 0).numpy().astype(np.uint8), label.numpy(), prompts


def floor(pairs):
    """Milliseconds per pair to decode alone: libjpeg-turbo and the PNG decoder through Pillow."""
    data = [(Path(image).read_bytes(), Path(mask).read_bytes()) for image, mask in pairs]
    started = time.process_time()
    for image, mask in data:
        Image.open(io.BytesIO(image)).load()
        Image.open(io.BytesIO(mask)).load()
    return (time.process_time() - started) * 1e3 / len(data)


def main():
    images, masks, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    random.seed(42), np.random.seed(42), torch.manual_seed(42)
    found = [(image, masks / (image.stem + ".png")) for image in sorted(images.glob("*.jpg"))]
    pairs = [found[index % len(found)] for index in range(count)]
    sample(*pairs[0])
    cpu, wall = time.process_time(), time.perf_counter()
    for pair in pairs:
        sample(*pair)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({
        "samples_per_second": count / wall,
        "cpu_ms": cpu * 1e3 / count,
        "floor_ms": floor(pairs),
    }))


main()
