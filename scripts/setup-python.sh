#!/usr/bin/env bash
# Puts the published Python implementation, and the tools that exports and shards must open in,
# into .venv. Its torch is the one of .libtorch-cuda, so that it is fetched only once. A second run
# is instant.
source "$(dirname "$0")/common.sh"
need_pip
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "$(python_version)" ] ||
    die "the parity tests need Python 3.11, 3.12 or 3.13, python3 is $version"
scripts/setup-libtorch.sh cuda-only
lock python
stamp=$(stamp_of scripts/python*.txt scripts/libtorch-cuda.txt)
[ "$(cat .venv/.stamp 2> /dev/null)" = "$stamp" ] && exit
echo "fetching the published Python implementation into .venv ..." >&2
rm -rf .venv
python3 -m venv --without-pip .venv ||
    die "python3 cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"
packages=.venv/lib/python$version/site-packages
cat scripts/python*.txt > .venv/requirements.txt
fetch .venv/requirements.txt "$packages"
echo "$PWD/.libtorch-cuda" > "$packages/libtorch.pth"
.venv/bin/python -c 'import cv2, torch, torchvision, segment_anything_hq, transformers, onnxruntime' &&
    .venv/bin/python -c 'import datasets, duckdb, tensorboard' ||
    die "the environment in .venv does not work (see above)"
echo "$stamp" > .venv/.stamp
