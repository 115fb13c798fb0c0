#!/usr/bin/env bash
# Fuzzes everything that reads foreign bytes, two targets at a time, SECONDS (60) each: any bytes
# must give a result or an error, never a panic, a hang or a large allocation. The first finding
# ends it with a message that names the input, under fuzz/artifacts.
#
#   scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
export seconds=${1:-60}
tools=$PWD/.tools
version=0.13.2
if [ "$("$tools/bin/cargo-fuzz" --version 2> /dev/null)" != "cargo-fuzz $version" ]; then
    cargo install --locked --quiet --root "$tools" "cargo-fuzz@$version"
fi
export PATH=$tools/bin:$PATH
# Without a sanitizer, which needs another compiler: the JPEG decoder's vector code is the only unsafe
# code that is reached from here.
cargo fuzz build --sanitizer none
programs=$PWD/fuzz/target/$(rustc --version --verbose | sed -n 's/^host: //p')/release
export programs

fuzz() {
    local target=$1 log=fuzz/artifacts/$1.log
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    if "$programs/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" \
        -max_len=65536 -timeout=20 -rss_limit_mb=2048 > "$log" 2>&1; then
        echo "fuzz $target: $(grep -a '^Done' "$log")"
    else
        tail -n 40 "$log"
        echo "fuzz $target: a finding, see above; the input lies under fuzz/artifacts/$target" >&2
        return 255 # xargs starts no further target
    fi
}
export -f fuzz
cargo fuzz list | xargs -P 2 -I {} bash -c 'fuzz {}'
