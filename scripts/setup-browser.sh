#!/usr/bin/env bash
# Installs Chromium, in which the test of the report page opens it: as root on Debian and its like.
# Elsewhere install it by hand; without it that test is skipped.
source "$(dirname "$0")/common.sh"
for program in chromium chromium-browser google-chrome; do
    command -v "$program" > /dev/null && exit
done
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null ||
    die "chromium not found: install it (Debian: apt install chromium)"
echo "installing chromium ..." >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null ||
    die "could not install chromium (see above)"
command -v chromium > /dev/null || die "the package chromium brought no program of that name"
