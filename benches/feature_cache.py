"""Trains LiteMedSAM on ECSSD for two epochs with an empty `train.cache_embeddings`, and prints what
a step takes in each: the first encodes every image, the second finds all of them on the disk.

    feature_cache.py PROGRAMS RAW [FOLDER]     RAW holds ECSSD/, see benches/run.sh

What is interrupted in FOLDER goes on with the same command; its cache must not be used by others.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCHS = 2
PARTS = ("encode_secs", "decode_secs", "data_wait_secs", "step_secs")


def settings(values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def measure(programs, raw, folder):
    data, run, cache = folder / "data", folder / "run", folder / "cache"
    sources = settings({"output": str(data), "source.ECSSD.root": str(raw / "ECSSD")})
    subprocess.run([programs / "hqseg", "build", "configs/ecssd.toml", *sources], check=True)
    train = settings({
        "data.path": str(data),
        "output": str(run),
        "train.cache_embeddings": str(cache),
        "train.epochs": EPOCHS,
        "train.lr_drop_epoch": 1,
        "eval.splits": [],
    })
    command = [programs / "hqsam", "train", "configs/ecssd_lite.toml", *train]
    subprocess.run(command + (["--resume"] if run.exists() else []), check=True)
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def report(steps, cache):
    print(f"\nLiteMedSAM on ECSSD, boxes, {len(steps)} steps of 4 images; medians, s\n")
    print("| epoch | steps | frozen encoder | decoder, loss, backward | data wait | step |")
    print("|---|---:|---:|---:|---:|---:|")
    medians = []
    for epoch in range(EPOCHS):
        own = [step for step in steps if step["epoch"] == epoch]
        medians.append([statistics.median(step[part] for step in own) for part in PARTS])
        shown = " | ".join(f"{value:.3f}" for value in medians[-1])
        name = "all encoded" if epoch == 0 else "all from the cache"
        print(f"| {epoch + 1}, {name} | {len(own)} | {shown} |")
    (first, *_, whole), (later, *_, whole_later) = medians
    print(f"\nThe encoder's part: {first / later:.0f}x less; the step: {whole / whole_later:.1f}x less.")
    files = [path for path in cache.rglob("*.safetensors")]
    size = sum(path.stat().st_size for path in files) / 2**20
    print(f"The cache: {len(files)} samples, {size:.0f} MiB, {size / len(files):.2f} MiB each.")


def main():
    programs, raw = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[3] if len(sys.argv) > 3 else temporary)
        report(measure(programs, raw, folder), folder / "cache")


if __name__ == "__main__":
    main()
