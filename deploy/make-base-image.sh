#!/bin/sh
# Makes the base image for deploy/Dockerfile where no registry is reachable, only a Debian mirror:
#
#   deploy/make-base-image.sh [NAME [SUITE [MIRROR]]]       (root, debootstrap, docker; about 40 seconds)
#   docker build --build-arg BASE=kourou-base:bookworm --file deploy/Dockerfile --tag kourou .
set -eu

name=${1:-kourou-base:bookworm}
suite=${2:-bookworm}
mirror=${3:-http://deb.debian.org/debian}

fail() { echo "make-base-image.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
command -v debootstrap >/dev/null || fail "debootstrap is missing (apt install debootstrap)"
docker version >/dev/null 2>&1 || fail "docker does not answer (DOCKER_HOST=${DOCKER_HOST:-not set})"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$work/root" "$mirror"
rm -rf "$work/root/var/cache/apt/archives" "$work/root/var/lib/apt/lists"
mkdir -p "$work/root/var/cache/apt/archives/partial" "$work/root/var/lib/apt/lists/partial"
tar --create --directory "$work/root" --numeric-owner . | docker import --change 'CMD ["/bin/sh"]' - "$name"
echo "made $name"
