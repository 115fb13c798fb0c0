#!/usr/bin/env bash
# Puts the libtorch that the workspace is built against into .libtorch.
#
#   scripts/setup-libtorch.sh            for the CPU (about 0.5 GB), or the torch 2.13.0 of
#                                        $LIBTORCH or of the active Python environment
#   scripts/setup-libtorch.sh cuda       with CUDA and NCCL (about 4 GB): .libtorch-cuda, and
#                                        .libtorch then points to it
#   scripts/setup-libtorch.sh cuda-only  the same without touching .libtorch
#
# A second run is instant. An interrupted run leaves nothing that looks finished.
source "$(dirname "$0")/common.sh"
version=2.13.0
kind=${1:-cpu}

torch_version() {
    sed -n "s/^__version__ = '\([^'+]*\).*/\1/p" "$1/version.py" 2> /dev/null ||
        cut -d + -f 1 "$1/build-version" 2> /dev/null || true
}

# use FOLDER NAME: links .libtorch to FOLDER, which holds torch/.
use() {
    if [ "$(readlink -f .libtorch 2> /dev/null)" != "$(readlink -f "$1")" ]; then
        if [ -e .libtorch ] && [ ! -L .libtorch ]; then
            rm -rf .libtorch-cpu
            mv .libtorch .libtorch-cpu
        fi
        ln -sfn "$1" .libtorch
        # Build products remember what they were compiled against.
        cargo clean --quiet --package torch-sys --package c10d 2> /dev/null || true
        cargo clean --quiet --release --package torch-sys --package c10d 2> /dev/null || true
    fi
    echo "libtorch $version: $2" >&2
}

# Uses the torch at $1 (named $2) where its version fits; refuses it by name otherwise.
use_existing() {
    local found
    found=$(torch_version "$1")
    [ "$found" = "$version" ] ||
        die "libtorch ${found:-of unknown version} at $1 ($2) does not fit: $version is needed; unset LIBTORCH, leave the environment, or install torch==$version in it"
    # A folder with another name cannot stand in for .libtorch/torch; LIBTORCH itself leads there.
    if [ "$(basename "$1")" = torch ]; then use "$(dirname "$1")" "$1 ($2)"; fi
}

# The torch of the active Python environment, if it has one.
environment_torch() {
    local prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    [ -n "$prefix" ] && [ -x "$prefix/bin/python" ] || return 0
    "$prefix/bin/python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2> /dev/null || true
}

# What linking and running need not.
prune() {
    local lib=$1/torch/lib
    rm -f "$lib"/libtorch_{cuda,cuda_linalg,python,nvshmem}.so "$lib"/libc10_cuda.so \
        "$lib"/libcaffe2_nvrtc.so "$lib"/*.a
    find "$1" -name 'libnvperf*' -delete
    find "$1/torch" -name '*.py' ! -path "$1/torch/version.py" -delete
    rm -rf "$1"/torch/{test,testing,_inductor,_dynamo,distributed} "$1"/{functorch,torchgen,bin}
}

# install FOLDER REQUIREMENTS
install() {
    local stamp
    stamp=$(stamp_of "$2")
    [ "$(cat "$1/.stamp" 2> /dev/null)" = "$stamp" ] && return
    need_platform
    need_pip
    echo "fetching libtorch $version into $1 ..." >&2
    rm -rf "$1.partial"
    fetch "$2" "$1.partial"
    if [ "$2" = scripts/libtorch-cpu.txt ]; then prune "$1.partial"; fi
    echo "$stamp" > "$1.partial/.stamp"
    rm -rf "$1"
    mv "$1.partial" "$1"
}

need cargo "install Rust, see https://rustup.rs"
need g++ "install a C++20 compiler (Debian, Ubuntu: apt install g++)"
lock libtorch
case $kind in
    cpu)
        if [ -n "${LIBTORCH:-}" ] && [ "$(realpath -m "$LIBTORCH")" != "$(realpath -m .libtorch/torch)" ]; then
            use_existing "$(realpath -m "$LIBTORCH")" LIBTORCH
            exit
        fi
        torch=$(environment_torch)
        if [ -n "$torch" ]; then
            use_existing "$torch" "the active Python environment"
            exit
        fi
        # An existing link was made by `cuda` or by hand: keep what the user chose, if it fits.
        if [ -L .libtorch ] && [ "$(torch_version .libtorch/torch)" = "$version" ]; then exit; fi
        if [ -L .libtorch ]; then rm .libtorch; fi
        install .libtorch scripts/libtorch-cpu.txt
        ;;
    cuda | cuda-only)
        install .libtorch-cuda scripts/libtorch-cuda.txt
        if [ "$kind" = cuda ]; then use .libtorch-cuda .libtorch-cuda; fi
        ;;
    *) die "unknown kind $kind: cpu, cuda or cuda-only" ;;
esac
