"""Prints how fast ECSSD is built beside PyPI `datasets` with two processes doing the same work: images
and masks embedded into Parquet and both decoded once, by the generator as it reads them.

    build.py HQSEG RAW [ROUNDS [PAIRS]]     see benches/run.sh; PAIRS: only the first so many
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HQSEG, RAW = sys.argv[1], Path(sys.argv[2])
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 3
PAIRS = int(sys.argv[4]) if len(sys.argv) > 4 else 1000

PEER = """
import io, sys, time
from pathlib import Path
import datasets
from PIL import Image
datasets.disable_progress_bars()

def verified(path):
    content = path.read_bytes()
    Image.open(io.BytesIO(content)).load()
    return {"bytes": content, "path": path.name}

def rows(images):
    for image in images:
        mask = image.parent.parent / "ground_truth_mask" / (image.stem + ".png")
        yield {"image": verified(image), "mask": verified(mask)}

raw, folder = Path(sys.argv[1]), sys.argv[2]
images = sorted((raw / "ECSSD/images").glob("*.jpg"))
started = time.perf_counter()
features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
made = datasets.Dataset.from_generator(
    rows, features=features, gen_kwargs={"images": images}, num_proc=2, cache_dir=folder
)
made.to_parquet(folder + "/train.parquet")
print(len(made) / (time.perf_counter() - started))
"""


def first_pairs(folder):
    """The raw collection, or a copy of its first pairs."""
    images = sorted((RAW / "ECSSD/images").glob("*.jpg"))
    if PAIRS >= len(images):
        return RAW
    for image in images[:PAIRS]:
        mask = RAW / "ECSSD/ground_truth_mask" / f"{image.stem}.png"
        for file in (image, mask):
            place = Path(folder) / "ECSSD" / file.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    return Path(folder)


def peer(folder):
    command = [sys.executable, "-c", PEER, str(RAW), folder]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def config_in(folder):
    config = Path(folder) / "ecssd.toml"
    config.write_text(
        f'output = "{folder}/out"\n\n[[source]]\nname = "ECSSD"\nlayout = "ecssd"\n'
        f'root = "{RAW}/ECSSD"\nsplit = "train"\n'
    )
    return [HQSEG, "build", str(config), "--threads"]


def ours(folder, threads):
    command = [*config_in(folder), str(threads)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return PAIRS / (time.perf_counter() - started)


def at_once(folder):
    """Two builds on one thread each that share nothing but the machine: what two cores can be worth."""
    commands = []
    for name in ("one", "two"):
        part = Path(folder) / name
        part.mkdir()
        commands.append([*config_in(part), "1"])
    started = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    builds = [subprocess.Popen(command, **quiet) for command in commands]
    assert all(build.wait() == 0 for build in builds)
    return 2 * PAIRS / (time.perf_counter() - started)


def main():
    runs = {
        "datasets, 2 processes": peer,
        "hqseg, 1 thread": lambda folder: ours(folder, 1),
        "hqseg, 2 threads": lambda folder: ours(folder, 2),
        "two builds at once": at_once,
    }
    rows = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                rows[name].append(run(folder))
    peers, one, two, both = (statistics.median(found) for found in rows.values())
    print(f"ECSSD, {PAIRS} pairs, rows a second, medians of {ROUNDS} interleaved rounds")
    for name, found in rows.items():
        speed = statistics.median(found)
        print(f"  {name:<22} {speed:7.0f}   {speed / peers:.2f} times datasets")
    print(
        f"  2 threads are {two / one:.2f} times as fast as 1 (at least 1.8 wanted); "
        f"two builds on one thread each, at once, come to {both / one:.2f}"
    )


with tempfile.TemporaryDirectory() as copies:
    RAW = first_pairs(copies)
    main()
