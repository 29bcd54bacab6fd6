#!/bin/bash
# `make test-compose`: install a Docker engine if there is none, build the images, run the tests, take everything down.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
dir=$(mktemp -d)
begun=$SECONDS
lap() { echo "[$((SECONDS - begun)) s] $*"; }

need=()
command -v docker >/dev/null && command -v dockerd >/dev/null || need+=(docker.io)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || need+=(docker-compose)
command -v iptables >/dev/null || need+=(iptables)
command -v mmdebstrap >/dev/null || need+=(mmdebstrap)
command -v chromium >/dev/null || need+=(chromium)
if [ ${#need[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "needs ${need[*]}: install them, or run as root"; exit 2; }
  patient="-o DPkg::Lock::Timeout=120 -o Acquire::Retries=3"
  alone="flock --close /tmp/ssem-dask-apt.lock" # two suites may run at once, and apt-get update waits for nobody
  $alone apt-get $patient update -qq
  DEBIAN_FRONTEND=noninteractive $alone apt-get $patient install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
lap "packages"

cleanup() {
  [ ! -s "$dir/dockerd.pid" ] || {
    kill "$(cat "$dir/dockerd.pid")"
    for _ in $(seq 100); do [ -e "$dir/dockerd.pid" ] || break; sleep 0.2; done
    iptables-restore < "$dir/iptables" # dockerd leaves its chains, and FORWARD closed
    ip link delete docker0 2>/dev/null
  } || true
  rm -rf "$dir"
}
if ! docker info >/dev/null 2>&1; then # an engine of our own, which nobody else sees
  # Setting what is set already makes the tables exist, so that restoring them takes away what was added.
  iptables $(iptables -S FORWARD | head -n 1)
  iptables -t nat $(iptables -t nat -S PREROUTING | head -n 1)
  iptables-save > "$dir/iptables"
  trap cleanup EXIT
  export DOCKER_HOST=unix://$dir/docker.sock
  setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" -H "$DOCKER_HOST" \
    > "$dir/dockerd.log" 2>&1 < /dev/null &
  for _ in $(seq 300); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
  docker info >/dev/null 2>&1 || { tail -n 20 "$dir/dockerd.log"; exit 1; }
fi
lap "engine"

export BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm} S3_IMAGE=${S3_IMAGE:-chrislusf/seaweedfs:4.48}
backend=cpu
if ! docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && ! timeout 60 docker pull --quiet "$BASE_IMAGE" >/dev/null 2>&1
then # no registry can be reached: stand-ins from Debian's and Python's packages
  "$here/stand-ins.sh" "$dir"
  BASE_IMAGE=ssem-dask-test/base S3_IMAGE=ssem-dask-test/s3 backend=
fi
lap "base images"
export SSEM_IMAGE=ssem-dask-test/app
build() {
  docker build --quiet --file "$root/deploy/Dockerfile" --build-arg "BASE_IMAGE=$BASE_IMAGE" \
    --build-arg "TORCH_BACKEND=$backend" --tag "$SSEM_IMAGE" "$root" > "$dir/build.log" 2>&1
}
build || { lap "the build failed, once more"; build; } || { tail -n 40 "$dir/build.log"; exit 1; }
lap "image: $(docker image inspect --format '{{.Size}}' "$SSEM_IMAGE" | numfmt --to=si)B"
cd "$root"
# The summary of pytest is the last that is said.
.venv/bin/python -m pytest tests/service/compose --durations=0 --durations-min=1 "$@"
