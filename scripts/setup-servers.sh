#!/usr/bin/env bash
# Puts the object store servers of the tests into .tools/servers: moto, which speaks S3, from PyPI
# (wheels and hashes: scripts/servers.txt) and Azurite, which speaks Azure Blob Storage, from npm
# (scripts/servers/package-lock.json). A second run is instant.
source "$(dirname "$0")/common.sh"
need_pip
need node "install Node.js 18 or newer (Debian, Ubuntu: apt install nodejs npm)"
need npm "install npm (Debian, Ubuntu: apt install npm)"
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "$(python_version)" ] ||
    die "the servers need Python 3.11, 3.12 or 3.13, python3 is $version"
lock servers
stamp=$(stamp_of scripts/servers.txt scripts/servers/package-lock.json)
folder=.tools/servers
[ "$(cat "$folder/.stamp" 2> /dev/null)" = "$stamp" ] && exit
echo "fetching the servers of the tests into $folder ..." >&2
rm -rf "$folder"
mkdir -p "$folder/azurite"
fetch scripts/servers.txt "$folder/moto"
cp scripts/servers/package.json scripts/servers/package-lock.json scripts/servers/.npmrc "$folder/azurite"
(cd "$folder/azurite" && npm ci --silent --ignore-scripts) ||
    die "could not fetch the packages of scripts/servers/package-lock.json (see above)"
PYTHONPATH=$folder/moto python3 -c 'import moto.server' ||
    die "the S3 server in $folder does not start (see above)"
node "$folder/azurite/node_modules/.bin/azurite-blob" --version > /dev/null ||
    die "the Azure server in $folder does not start (see above)"
echo "$stamp" > "$folder/.stamp"
