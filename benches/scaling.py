"""Prints what data parallelism costs: training by two processes of one thread each beside one process of
two threads, with the same global batch on the same samples, interleaved in one run. Real training: reading,
decoding and augmenting, the step, the all-reduce, with random weights of the sizes of LiteMedSAM.

    scaling.py PROGRAMS [ROUNDS]     run by benches/run.sh scaling; PROGRAMS is the folder of hqsam
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = Path(sys.argv[1]).resolve()
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
GLOBAL_BATCH, STEPS, WARM_UP, WANTED = 2, 5, 1, 0.05
CONFIG = f"""
output = "run"
model = {{ encoder = "lite_medsam", random_sam = true }}
data = {{ path = "data", threads = 1 }}
[train]
epochs = 1
global_batch = {GLOBAL_BATCH}
micro_batch = {GLOBAL_BATCH}
[eval]
splits = []
"""


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


def seconds_of_steps(folder, ranks, name):
    """Seconds from step to step, of rank 0: waiting for the samples and the step itself."""
    launch = ("launch", "--procs", str(ranks), "config.toml", "--set", f'output="{name}"')
    run(PROGRAMS / launch[0], *launch[1:], cwd=folder, stderr=subprocess.DEVNULL)
    with open(folder / name / "steps.jsonl") as lines:
        steps = [json.loads(line) for line in lines][WARM_UP:]
    assert len(steps) == STEPS, f"{len(steps)} steps"
    return [step["data_wait_secs"] + step["step_secs"] for step in steps], [step["loss"] for step in steps]


def all_reduce_alone(folder):
    ranks = ("--procs", "2", "--", PROGRAMS / "hqsam")
    bench = ("bench", "config.toml", "--batch", "1", "--steps", "1", "--warm-up", "0", "--json")
    report = run(PROGRAMS / "launch", *ranks, *bench, cwd=folder, stderr=subprocess.DEVNULL)
    return json.loads(report)["all_reduce"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pairs = GLOBAL_BATCH * (STEPS + WARM_UP)
        run(PROGRAMS / "hqseg", "draw", "raw/ECSSD", "--count", str(pairs), cwd=folder, stderr=subprocess.DEVNULL)
        build = ("build", "--auto", "raw", "--output", "data", "--holdout", "0")
        run(PROGRAMS / "hqseg", *build, cwd=folder, stderr=subprocess.DEVNULL)
        (folder / "config.toml").write_text(CONFIG)
        times, losses = {1: [], 2: []}, {1: [], 2: []}
        ratios = []
        for number in range(ROUNDS):
            for ranks in (1, 2) if number % 2 == 0 else (2, 1):
                found, losses[ranks] = seconds_of_steps(folder, ranks, f"run-{ranks}-{number}")
                times[ranks] += found
                print(f"round {number}, {ranks} ranks: {statistics.median(found):.4f} s", file=sys.stderr, flush=True)
            count = len(found)
            ratios.append(statistics.median(times[2][-count:]) / statistics.median(times[1][-count:]))
        worst = max(abs(one - two) for one, two in zip(losses[1], losses[2]))
        assert worst < 1e-3, f"not the same training: losses differ by {worst}"
        one, two = statistics.median(times[1]), statistics.median(times[2])
        alone = all_reduce_alone(folder)
    print(f"LiteMedSAM at 256, {GLOBAL_BATCH} samples a step, medians of {ROUNDS} interleaved rounds of {STEPS} steps")
    print(f"  1 process, 2 threads    {one:.4f} s a step")
    print(f"  2 processes, 1 thread   {two:.4f} s a step")
    print(f"  overhead                {100 * (two / one - 1):+.1f} % (at most {100 * WANTED:.0f} % wanted); "
          f"by round {', '.join(f'{100 * (ratio - 1):+.1f}' for ratio in ratios)}")  # fmt: skip
    fastest = {ranks: min(found) for ranks, found in times.items()}
    print(f"  fastest steps           {fastest[1]:.4f} s and {fastest[2]:.4f} s, {100 * (fastest[2] / fastest[1] - 1):+.1f} % "
          "(what else runs on the machine only adds)")  # fmt: skip
    print(f"  all-reduce alone        {1e3 * alone['seconds']:.2f} ms, {alone['bytes']} bytes, "
          f"{100 * alone['seconds'] / two:.2f} % of a step")  # fmt: skip


main()
