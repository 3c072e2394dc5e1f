#!/bin/sh
# Makes a small Debian with systemd in a directory, for the tests of deploy/vm and deploy/systemd:
#
#   tests/deploy/make-rootfs.sh DIRECTORY [SUITE [MIRROR]]       (root, debootstrap; about 40 seconds)
set -eu

root=$1
suite=${2:-bookworm}
mirror=${3:-http://deb.debian.org/debian}

fail() { echo "make-rootfs.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
command -v debootstrap >/dev/null || fail "debootstrap is missing (apt install debootstrap)"
[ ! -e "$root" ] || fail "$root is there already"

rm -rf "$root.new"
mkdir -p "$root.new"
trap 'rm -rf --one-file-system "$root.new"' EXIT
trap 'exit 1' INT TERM
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,systemd "$suite" "$root.new" "$mirror"
mv "$root.new" "$root" # all of it or nothing
