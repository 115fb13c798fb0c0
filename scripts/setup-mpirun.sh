#!/usr/bin/env bash
# Installs Open MPI, whose mpirun starts ranks in a test: as root on Debian and its like. Elsewhere
# install it by hand; without it that test is skipped.
source "$(dirname "$0")/common.sh"
command -v mpirun > /dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null ||
    die "mpirun not found: install it (Debian: apt install openmpi-bin)"
echo "installing mpirun ..." >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends openmpi-bin > /dev/null ||
    die "could not install mpirun (see above)"
command -v mpirun > /dev/null || die "the package openmpi-bin brought no mpirun"
