"""Prints how long a training step takes beside the published one, both on two threads and interleaved,
with random weights, two images at 1024 (a box and ten points), for ViT-B and TinyViT.

    train_step.py HQSAM [ROUNDS] [ENCODER ...]     run by benches/run.sh
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HQSAM = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 2
BATCH, STEPS, WARM_UP = "2", "1", "1"
PARTS = ("encoder", "decoder", "backward")
# Configuration, and how many times as fast as the published step is wanted in float32 and bfloat16.
SETS = {"vit_b": ("hqsam_b", 2.0, 4.0), "vit_tiny": ("hqsam_tiny", 1.5, 2.0)}


def output_of(*command):
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    # A round takes minutes: what is measured stays readable if the run is broken off.
    print(json.dumps(report), file=sys.stderr, flush=True)
    return report


def ours(config, bf16):
    return output_of(
        HQSAM, "bench", str(HERE.parent / "configs" / f"{config}.toml"),
        "--batch", BATCH, "--steps", STEPS, "--warm-up", WARM_UP, "--threads", "2", "--json",
        "--set", f"train.bf16={str(bf16).lower()}",
    )  # fmt: skip


def middle(rows, *keys):
    def value(row):
        for key in keys:
            row = row[key]
        return row

    return statistics.median(value(row) for row in rows)


def compare(encoder, config, goals):
    rows = {"peer": [], "float32": [], "bfloat16": []}
    for _ in range(ROUNDS):
        peer = [sys.executable, str(HERE / "peer_train_step.py"), encoder, BATCH, STEPS, WARM_UP]
        rows["peer"].append(output_of(*peer))
        rows["float32"].append(ours(config, False))
        rows["bfloat16"].append(ours(config, True))
    step, peak = middle(rows["peer"], "step_secs"), middle(rows["peer"], "peak_resident_mib")
    print(f"{encoder}, medians of {ROUNDS} interleaved rounds, {BATCH} images a step")
    print(f"  published step  {step:7.2f} s ({middle(rows['peer'], 'sam_secs'):.2f} s in the frozen SAM), {peak:.0f} MiB")
    for precision, goal in zip(("float32", "bfloat16"), goals):
        found = rows[precision]
        own, own_peak = middle(found, "seconds", "step"), middle(found, "peak_resident_mib")
        native = precision == "float32" or found[0]["native_bf16"]
        print(
            f"  hqsam {precision:<9} {own:7.2f} s ({middle(found, 'seconds', 'encoder'):.2f} s in the encoder): "
            f"{step / own:.2f} times as fast, at least {goal} wanted; "
            f"{own_peak:.0f} MiB, {own_peak / peak:.2f} of the peer's; "
            "of the matrix-product floor "
            + ", ".join(f"{part} {100 * middle(found, part, 'share_of_floor'):.0f} %" for part in PARTS)
            + ("" if native else " (this processor multiplies no bfloat16: products in float32)"),
            flush=True,
        )


for name in sys.argv[3:] or SETS:
    config, *goals = SETS[name]
    compare(name, config, goals)
