#!/usr/bin/env bash
# The arrows between crates, as a check: a light crate must not pull in a heavy one.
source "$(dirname "$0")/common.sh"

# depends PACKAGE CRATE...: fails where PACKAGE builds with one of the crates.
forbid() {
    local package=$1 tree found
    shift
    tree=$(cargo tree --locked --package "$package" --edges normal,build --prefix none --format '{p}' |
        cut -d ' ' -f 1 | sort -u)
    for crate in "$@"; do
        found=$(grep -x "$crate" <<< "$tree" || true)
        [ -z "$found" ] || die "$package must not depend on $crate: cargo tree -p $package -i $crate shows the way"
    done
    echo "$package: free of $*" >&2
}

forbid dataset tokio object_store parquet tch torch-sys c10d launch pipeline trainer
forbid launch tokio object_store tch torch-sys c10d dataset pipeline trainer
forbid pipeline tch torch-sys c10d trainer
forbid c10d tokio object_store dataset launch pipeline trainer
forbid locate cc tch torch-sys

# libtorch is reached through these members only.
members=$(cargo metadata --locked --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(*sorted(p["name"] for p in json.load(sys.stdin)["packages"]))')
users=
for member in $members; do
    if cargo tree --locked --package "$member" --edges normal,build,dev --prefix none --format '{p}' |
        grep -q '^torch-sys '; then
        users="$users $member"
    fi
done
[ "$users" = " c10d tests trainer" ] ||
    die "libtorch is linked by$users, expected c10d, tests and trainer only"
echo "libtorch: in$users only" >&2
