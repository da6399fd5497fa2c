#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# fetch.sh NAME DIR: unpack the pinned original tarball of NAME (see the manifest) into DIR.
#
# The file is looked for by checksum, whatever it is called, in $STRONGROOM_SOURCES, in the ignored
# cache of this repository and where Debian's *-source packages put theirs. If it is in none of
# them, `apt-get source` fetches it into the cache, with the machine's own mirror settings.
# Nothing is unpacked that was not checked.
set -eu

name=$1 dest=$2
here=$(dirname "$0")
cache=$here/../.cache/sources
sums=$(awk -v n="$name" '$1 == n { print $3 }' "$here/manifest")
package=$(awk -v n="$name" '$1 == n { print $4; exit }' "$here/manifest")
[ -n "$sums" ] || { echo "fetch.sh: $name is not in the manifest" >&2; exit 1; }

# Print the first file that has one of the pinned checksums.
find_tarball() {
    for sum in $sums; do
        for dir in ${STRONGROOM_SOURCES:+"$STRONGROOM_SOURCES"} "$cache" "/usr/src/$name"; do
            [ -d "$dir" ] || continue
            find "$dir" -type f -name '*.tar.*' -exec sha256sum {} + |
                sed -n "s/^$sum  //p" | head -n 1 | grep . && return 0
        done
    done
    return 1
}

# Fetch the source package into the cache. The machine may have no deb-src entries: a private copy
# of its entries, turned into deb-src ones, leaves the system's own lists alone.
download() {
    work=$cache/.apt-$name
    mkdir -p "$work/parts" "$work/lists/partial"
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"$work/parts/${list##*/}"
    done
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb /deb-src /p' >"$work/parts/lines.list" || true
    set -- -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$(realpath "$work/parts")" \
        -o Dir::State::Lists="$(realpath "$work/lists")" -o APT::Sandbox::User=root
    apt-get "$@" update && (cd "$cache" && apt-get "$@" source --download-only "$package") || true
    rm -rf "$work"
}

mkdir -p "$cache"
tries=3
until tarball=$(find_tarball); do
    [ $tries -gt 0 ] || { echo "fetch.sh: no file with the pinned checksum of $name" >&2; exit 1; }
    tries=$((tries - 1))
    download
done

rm -rf "$dest"
mkdir -p "$dest"
tar -C "$dest" --strip-components=1 -xf "$tarball"
