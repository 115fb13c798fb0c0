# Shared by the set-up scripts; sourced, never run. Leaves the shell in the repository root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

need() {
    command -v "$1" > /dev/null || die "$1 not found: $2"
}

need_platform() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        die "only Linux x86_64 is supported, this is $(uname -sm)"
}

need_pip() {
    need python3 "install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-pip)"
    python3 -m pip --version > /dev/null 2>&1 ||
        die "pip not found: install it (Debian, Ubuntu: apt install python3-pip)"
}

# The Python whose wheels are taken: this one where wheels for it are pinned, else 3.11 (enough to
# link against, which needs no Python).
python_version() {
    local version
    version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $version in
        3.11 | 3.12 | 3.13) echo "$version" ;;
        *) echo 3.11 ;;
    esac
}

stamp_of() {
    { cat "$@"; python_version; } | sha256sum | cut -d ' ' -f 1
}

# fetch REQUIREMENTS FOLDER: exactly these wheels, hashes checked, nothing else.
fetch() {
    python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore \
        --no-compile --require-hashes --no-deps --only-binary=:all: \
        --python-version "$(python_version)" --target "$2" --requirement "$1" ||
        die "could not fetch the packages of $1 (see above); check the network and run it again"
}

# One set-up at a time; released when the script ends.
lock() {
    exec 9> ".$1.lock"
    flock 9
}
