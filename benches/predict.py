"""Prints how long `hqsam predict` (one box) and `hqsam amg` take beside segment-anything-hq with the
same random ViT-B weights, threads and pictures: each pair interleaved in one run, medians.

    predict.py HQSAM RAW [box|amg] [ROUNDS]     see benches/predict.sh

A command is timed as a whole, model loading included, and once more with a second picture: the
difference is what a further picture costs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HQSAM, RAW, WHAT = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 3
BOX = [40, 40, 260, 220]
AMG = {"points_per_side": int(os.environ.get("POINTS_PER_SIDE", 8)), "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}

PEER = """
import contextlib, io, json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
from PIL import Image
from segment_anything_hq import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

what, model, options, *pictures = sys.argv[1:]
options = json.loads(options)
torch.set_num_threads(2)
with contextlib.redirect_stdout(io.StringIO()):
    sam = sam_model_registry["vit_b"](checkpoint=model)
sam.eval()
for number, picture in enumerate(pictures):
    image = np.asarray(Image.open(picture).convert("RGB"))
    if what == "amg":
        found = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **options).generate(image)
        with open(f"peer-{number}.json", "w") as file:
            json.dump(found, file)
    else:
        predictor = SamPredictor(sam)
        with torch.no_grad():
            predictor.set_image(image)
            masks, _, _ = predictor.predict(box=np.array(options), multimask_output=False, hq_token_only=True)
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(f"peer-{number}.png")
"""

MODEL = """
import sys, torch
from segment_anything_hq import sam_model_registry
torch.manual_seed(0)
torch.save(sam_model_registry["vit_b"](checkpoint=None).state_dict(), sys.argv[1])
"""


def timed(command, folder):
    """Seconds, and the peak of its resident memory in MiB."""
    started = time.perf_counter()
    environment = dict(os.environ, OMP_NUM_THREADS="2")
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0, command
    return seconds, usage.ru_maxrss / 1024


def commands(pictures):
    if WHAT == "amg":
        options = [f"--{name.replace('_', '-')}={value}" for name, value in AMG.items()]
        ours = [HQSAM, "amg", "model.pth", *pictures, "--output-mode", "coco_rle", "-o", "ours", *options]
        peer = [sys.executable, "-c", PEER, "amg", "model.pth", json.dumps(AMG), *pictures]
    else:
        box = ",".join(map(str, BOX))
        target = "ours.png" if len(pictures) == 1 else "ours"
        ours = [HQSAM, "predict", "model.pth", *pictures, "--box", box, "--format", "png", "-o", target]
        peer = [sys.executable, "-c", PEER, "box", "model.pth", json.dumps(BOX), *pictures]
    return {"segment-anything-hq": peer, "hqsam": ours}


def main():
    pictures = [str(path.resolve()) for path in sorted((RAW / "ECSSD/images").glob("*.jpg"))[:2]]
    found = {name: {"one": [], "further": [], "peak": []} for name in commands(pictures)}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "ignore", "-c", MODEL, f"{folder}/model.pth"], check=True)
        for done in range(1, ROUNDS + 1):
            for name, parts in found.items():
                one, peak = timed(commands(pictures[:1])[name], folder)
                both, _ = timed(commands(pictures)[name], folder)
                parts["one"].append(one)
                parts["further"].append(both - one)
                parts["peak"].append(peak)
            report(found, done)


def report(found, rounds):
    """After each round, so that a run that is cut short has told what it saw."""
    middle = {
        name: {part: statistics.median(values) for part, values in parts.items()}
        for name, parts in found.items()
    }
    title = {"box": "one box", "amg": f"{AMG['points_per_side'] ** 2} points, every mask kept"}[WHAT]
    print(f"ViT-B, random weights, fp32, 2 threads, {title}: medians of {rounds} interleaved rounds")
    peer = middle["segment-anything-hq"]
    for name, parts in middle.items():
        print(
            f"  {name:<20} whole command {parts['one']:6.2f} s ({peer['one'] / parts['one']:.2f} times as fast), "
            f"a further picture {parts['further']:6.2f} s ({peer['further'] / parts['further']:.2f}), "
            f"peak {parts['peak']:.0f} MiB",
            flush=True,
        )


main()
