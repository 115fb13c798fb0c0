"""Prints the most memory that building ECSSD takes, and streaming it over ten epochs, both with two
threads, and whether the stream's stays flat. Does not depend on what else the machine does.

    memory.py HQSEG RAW [EPOCHS]     RAW holds ECSSD/, see benches/run.sh
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HQSEG, RAW = sys.argv[1], Path(sys.argv[2])
EPOCHS = int(sys.argv[3]) if len(sys.argv) > 3 else 10
THREADS, WANTED_MIB = 2, 1024
FLAT = 0.05


def peak_mib(command):
    """The most memory a command has had resident, and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command} failed"
    return usage.ru_maxrss / 1024, printed


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ecssd.toml"
        config.write_text(
            f'output = "{folder}/out"\n\n[[source]]\nname = "ECSSD"\nlayout = "ecssd"\n'
            f'root = "{RAW}/ECSSD"\nsplit = "train"\n'
        )
        built, _ = peak_mib([HQSEG, "build", str(config), "--threads", str(THREADS)])
        manifest = json.loads((Path(folder) / "out/manifest.json").read_text())
        rows = manifest["splits"]["train"]["num_samples"]
        # A little more than the epochs: one is over when the next one's first batch comes.
        samples = str(EPOCHS * rows + rows // 10)
        stream = ("bench", "stream", str(config), "--threads", str(THREADS), "--samples", samples, "--json")
        streamed, printed = peak_mib([HQSEG, *stream])
    printed = json.loads(printed)
    epochs = printed["resident_mib_by_epoch"][:EPOCHS]
    part = max(1, len(epochs) // 3)
    first, last = (sum(found) / part for found in (epochs[:part], epochs[-part:]))
    flat = last <= first * (1 + FLAT)
    print(f"ECSSD, {rows} pairs, {THREADS} threads, MiB resident (below {WANTED_MIB} wanted)")
    print(f"  build                  {built:6.0f} at most")
    print(f"  stream, {len(epochs):2} epochs      {streamed:6.0f} at most; at the end of each {epochs}")
    print(f"  batches for which memory was taken after the start: {printed['extra_buffers']} (0 wanted)")
    print(f"  first {part} epochs {first:.0f}, last {part} {last:.0f}: {'flat' if flat else 'it grows'} ({FLAT:.0%} allowed)")


main()
