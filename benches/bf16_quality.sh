#!/usr/bin/env bash
# Whether `train.bf16` costs quality: the same training of LiteMedSAM on ECSSD, from the same start and
# in the same order, once with the frozen encoder in float32 and once in bfloat16, each evaluated on the
# held-out pictures with its own encoder. No feature cache, which would round float32's features too.
#
#   benches/bf16_quality.sh [--epochs N] [--holdout SHARE] [--limit IMAGES]
#
# The pictures are real ones: $HQSAM_RAW_DIR (default ../shared/raw) with ECSSD/. Runs are kept in
# runs/bf16_quality; what is finished there is not done again, what was interrupted goes on.
source "$(dirname "$0")/../scripts/common.sh"
raw=$(realpath "${HQSAM_RAW_DIR:-../shared/raw}")
[ -d "$raw/ECSSD/images" ] || die "no ECSSD/images in $raw: set HQSAM_RAW_DIR"
make --silent build setup-weights
exec python3 benches/bf16_quality.py "$PWD/target/release" "$raw" "$PWD/runs/bf16_quality" "$@"
