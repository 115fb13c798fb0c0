"""Trains twice, in float32 and with `train.bf16`, and compares the held-out scores.

python3 benches/bf16_quality.py PROGRAMS RAW FOLDER [--epochs N] [--holdout SHARE] [--limit IMAGES]
"""

import argparse
import json
import subprocess
from pathlib import Path

GOAL = 0.2  # Points of mean IoU that bfloat16 may cost.


def settings(values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def scores(run):
    """The line of the last evaluation, or None while the run has none."""
    log = run / "eval.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1]) if lines else None


def step_seconds(run):
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return len(steps), sum(step["step_secs"] for step in steps) / len(steps)


def train(program, config, run, values):
    if scores(run) is None:
        arguments = ["train", config, *settings({**values, "output": str(run)})]
        resume = ["--resume"] if run.exists() else []
        subprocess.run([program, *arguments, *resume], check=True)
    if scores(run) is None:
        raise SystemExit(f"{run} was stopped: the same command goes on")
    return scores(run)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--holdout", type=float, default=0.2)
    parser.add_argument("--limit", type=int, default=200)
    wanted = parser.parse_args()
    folder = wanted.folder
    folder.mkdir(parents=True, exist_ok=True)

    data = {"output": str(folder / "data"), "source.ECSSD.root": str(wanted.raw / "ECSSD")}
    split = ["--set", f"source.ECSSD.split={{holdout={wanted.holdout}, seed=0}}"]
    build = [wanted.programs / "hqseg", "build", "configs/ecssd.toml", *settings(data), *split]
    subprocess.run(build, check=True)

    config = folder / "config.toml"
    published = Path("configs/ecssd_lite.toml").read_text().splitlines()
    kept = [line for line in published if not line.startswith("cache_embeddings")]
    config.write_text("\n".join(kept) + "\n")
    common = {
        "data.path": str(folder / "data"),
        "train.epochs": wanted.epochs,
        "train.lr_drop_epoch": max(1, wanted.epochs - 1),
        "eval.every_epochs": 0,
        "eval.limit": wanted.limit,
    }
    found = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        run = folder / name
        found[name] = train(wanted.programs / "hqsam", config, run, {**common, "train.bf16": bf16})

    steps, _ = step_seconds(folder / "float32")
    print(f"\n{steps} steps of 4 images, {found['float32']['images']} held-out images, boxes\n")
    print("| encoder | SAM mIoU | SAM mBIoU | HQ-SAM mIoU | HQ-SAM mBIoU | s a step |")
    print("|---|---:|---:|---:|---:|---:|")
    points = {}
    for name, line in found.items():
        points[name] = [100 * line[of][metric] for of in ("sam", "hq") for metric in ("mask_iou", "boundary_iou")]
        shown = " | ".join(f"{value:.2f}" for value in points[name])
        print(f"| {name} | {shown} | {step_seconds(folder / name)[1]:.1f} |")
    differences = [bf16 - fp32 for fp32, bf16 in zip(points["float32"], points["bfloat16"])]
    print("| difference | " + " | ".join(f"{value:+.2f}" for value in differences) + " | |")
    reached = "reached" if abs(differences[2]) <= GOAL else "NOT reached"
    print(f"\nWanted: HQ-SAM mIoU within {GOAL} points: {reached} ({differences[2]:+.2f})")


if __name__ == "__main__":
    main()
