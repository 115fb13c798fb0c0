#!/usr/bin/env bash
# The whole path once: raw folders -> shards -> training on two processes -> evaluation of the
# frozen SAM against HQ-SAM -> export -> one prediction. Called by `make demo`, after set-up and
# build. A second run reuses what is there.
#
#   scripts/demo.sh            draws its own small raw collection
#   scripts/demo.sh FOLDER     uses the raw data sets in FOLDER (native layouts, or im/ and gt/)
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/release
raw=${1:-}

step() { printf '\n== %s\n' "$*" >&2; }

if [ -n "$raw" ]; then
    # Each raw folder has its own results, so that another one never meets stale shards.
    demo=demo/$(basename "$raw")-$(realpath "$raw" | sha256sum | cut -c1-8)
else
    demo=demo/drawn
    raw=$demo/raw
    if [ ! -e "$demo/raw.done" ]; then
        step "drawing a raw collection into $raw"
        mkdir -p "$demo"
        rm -rf "$raw"
        "$bin/hqseg" draw "$raw" --count 12 --seed 1 --layout all
        touch "$demo/raw.done"
    fi
fi
run=$demo/run
mkdir -p "$demo"

step "building shards from $raw"
"$bin/hqseg" build --auto "$raw" --output "$demo/data" --holdout 0.2

settings=(--set "output=\"$run\"" --set "data.path=\"$demo/data\"")
if [ -e "$run/hqsam.pth" ]; then
    step "training: reusing $run"
else
    step "training on two processes"
    resume=()
    if compgen -G "$run/checkpoints/step-*.safetensors" > /dev/null; then resume=(--resume); fi
    "$bin/launch" --procs 2 configs/demo.toml "${settings[@]}" "${resume[@]}"
fi

step "evaluating SAM against HQ-SAM on the held-out images"
if [ ! -e "$run/eval/val.md" ] || [ ! -e "$run/hqsam.pth" ]; then
    "$bin/hqsam" eval "$run"
else
    cat "$run/eval/val.md"
fi

step "exporting"
[ -e "$run/hqsam.pth" ] || "$bin/hqsam" export "$run" --format pth

step "predicting one mask"
image=$(find -L "$raw" -iname '*.jpg' | LC_ALL=C sort | sed -n 1p)
"$bin/hqsam" predict "$run/hqsam.pth" "$image" --box 10%,10%,90%,90% \
    --output "$demo/mask.png" --overlay "$demo/overlay.png"

cat >&2 <<TEXT

Done.
  report page      $demo/data/report/index.html
  table            $run/eval/val.md
  exported model   $run/hqsam.pth   (loading models in Python: docs/python.md)
  prediction       $demo/overlay.png
TEXT
