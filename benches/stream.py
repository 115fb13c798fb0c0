"""Prints how fast training samples come beside the published loader's steps, both on one thread and
interleaved, for ECSSD and for one large photograph. Processor time per sample is what is compared:
on a machine that does other things as well, wall time says little.

    stream.py HQSEG RAW [ROUNDS]     RAW holds ECSSD/ and large/, see benches/run.sh
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HQSEG, RAW = sys.argv[1], Path(sys.argv[2])
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5

SETS = [
    # name, images, masks, samples of the peer, samples of ours, goals (exact, scaled)
    ("ECSSD", "ECSSD/images", "ECSSD/ground_truth_mask", 60, 800, (5.0, None)),
    ("photograph", "large/im", "large/gt", 8, 40, (2.5, 6.0)),
]


def output_of(*command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def build(folder, name, images, masks):
    config = Path(folder) / f"{name}.toml"
    config.write_text(
        f'output = "{folder}/{name}"\n\n[[source]]\nname = "{name}"\nlayout = "custom"\n'
        f'root = "{RAW}"\nimages = "{images}/*.jpg"\nmasks = "{masks}/{{stem}}.png"\nsplit = "train"\n'
    )
    subprocess.run([HQSEG, "build", str(config)], check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/{name}"


def ours(dataset, samples, mode):
    return output_of(
        HQSEG, "bench", "stream", dataset, "--threads", "1", "--samples", str(samples), "--decode", mode, "--json"
    )


def middle(rows, key):
    return statistics.median(row[key] for row in rows)


def compare(dataset, images, masks, peer_samples, our_samples):
    rows = {"peer": [], "exact": [], "scaled": []}
    for _ in range(ROUNDS):
        rows["peer"].append(
            output_of(
                sys.executable, str(HERE / "peer_stream.py"), str(RAW / images), str(RAW / masks), str(peer_samples)
            )
        )
        for mode in ("exact", "scaled"):
            rows[mode].append(ours(dataset, our_samples, mode))
    return rows


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name, images, masks, peer_samples, our_samples, goals in SETS:
            dataset = build(folder, name, images, masks)
            rows = compare(dataset, images, masks, peer_samples, our_samples)
            peer, floor = middle(rows["peer"], "cpu_ms"), middle(rows["peer"], "floor_ms")
            print(f"{name}: medians of {ROUNDS} interleaved rounds, milliseconds of processor time a sample")
            print(f"  published steps   {peer:8.2f}")
            for mode, goal in zip(("exact", "scaled"), goals):
                cpu = middle(rows[mode], "cpu_ms")
                wanted = f", at least {goal} wanted" if goal else ""
                print(
                    f"  hqseg, {mode:<10} {cpu:8.2f}   {peer / cpu:5.2f} times as fast{wanted}; "
                    f"{cpu / floor:.2f} times the floor; at most {middle(rows[mode], 'peak_resident_mib')} MiB"
                )
            alone = [middle(rows["exact"], f"{part}_ms") for part in ("decode_image", "decode_mask", "resample")]
            print("  hqseg, parts alone  image {:.2f}, mask {:.2f}, resampling {:.2f}".format(*alone))
            print(f"  floor             {floor:8.2f}   image and mask decoded by Pillow (libjpeg-turbo) alone")


main()
