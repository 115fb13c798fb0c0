#!/usr/bin/env bash
# Compares `hqseg` with the published loader's steps (stream) and with PyPI `datasets` (build), and
# `hqsam` with the published training step (train), and two ranks with one process (scaling), each
# pair interleaved in one run on this machine; measures the memory of building and streaming (memory;
# ROUNDS are epochs, ten by default); times training steps with and without the features they need in
# the cache (cache, not part of all: a quarter of an hour). Puts the Python side into .tools/bench (stream,
# build) or .venv (train) first.
#
#   benches/run.sh [stream|build|memory|train|scaling|cache|all] [ROUNDS]
#
# Stream, build, memory and cache read real pictures: $HQSAM_RAW_DIR (default ../shared/raw) with ECSSD/
# and large/{im,gt}. The training step draws its samples; a round takes about four minutes.
source "$(dirname "$0")/../scripts/common.sh"
what=${1:-all}
rounds=${2:-5}
if [ "$what" = train ]; then
    make --silent build setup-python
    exec .venv/bin/python benches/train_step.py target/release/hqsam "$rounds"
fi
if [ "$what" = scaling ]; then
    make --silent build
    exec python3 benches/scaling.py target/release "$rounds"
fi
raw=$(realpath "${HQSAM_RAW_DIR:-../shared/raw}")
[ -d "$raw/ECSSD/images" ] || die "no ECSSD/images in $raw: set HQSAM_RAW_DIR"
if [ "$what" = memory ]; then
    make --silent build
    exec python3 benches/memory.py target/release/hqseg "$raw" "${2:-10}"
fi
if [ "$what" = cache ]; then
    make --silent build setup-weights
    exec python3 benches/feature_cache.py target/release "$raw"
fi
need_pip
scripts/setup-libtorch.sh cuda-only
lock bench
stamp=$(stamp_of benches/requirements.txt scripts/libtorch-cuda.txt)
if [ "$(cat .tools/bench/.stamp 2> /dev/null)" != "$stamp" ]; then
    rm -rf .tools/bench
    mkdir -p .tools
    python3 -m venv --without-pip .tools/bench
    packages=.tools/bench/lib/python$(python_version)/site-packages
    fetch benches/requirements.txt "$packages"
    echo "$PWD/.libtorch-cuda" > "$packages/libtorch.pth"
    echo "$stamp" > .tools/bench/.stamp
fi
# Everything, as everywhere: a part of the workspace alone would compile with other features.
make --silent build
for bench in stream build; do
    if [ "$what" = all ] || [ "$what" = "$bench" ]; then
        .tools/bench/bin/python "benches/$bench.py" target/release/hqseg "$raw" "$rounds"
    fi
done
if [ "$what" = all ]; then
    benches/run.sh memory
    benches/run.sh train "$rounds"
    exec benches/run.sh scaling "$rounds"
fi
