#!/usr/bin/env bash
# Compares `hqsam predict` and `hqsam amg` with the Python package on this machine, weights and
# pictures. POINTS_PER_SIDE sets the points of `amg` (8).
#
#   benches/predict.sh [box|amg] [ROUNDS]
#
# The pictures are real ones: $HQSAM_RAW_DIR (default ../shared/raw) with ECSSD/.
source "$(dirname "$0")/../scripts/common.sh"
what=${1:-all}
rounds=${2:-3}
raw=$(realpath "${HQSAM_RAW_DIR:-../shared/raw}")
[ -d "$raw/ECSSD/images" ] || die "no ECSSD/images in $raw: set HQSAM_RAW_DIR"
make --silent setup-python build
for bench in box amg; do
    if [ "$what" = all ] || [ "$what" = "$bench" ]; then
        .venv/bin/python benches/predict.py "$PWD/target/release/hqsam" "$raw" "$bench" "$rounds"
    fi
done
