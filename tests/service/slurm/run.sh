#!/bin/bash
# `make test-slurm`: install SLURM if it is missing, start it on loopback, run the tests, stop it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
  patient="-o DPkg::Lock::Timeout=120 -o Acquire::Retries=3"
  alone="flock --close /tmp/ssem-dask-apt.lock" # two suites may run at once, and apt-get update waits for nobody
  $alone apt-get $patient update -qq
  DEBIAN_FRONTEND=noninteractive $alone apt-get $patient install -y -qq --no-install-recommends \
    slurm-wlm slurmctld slurmd slurm-client munge >/dev/null
fi
dir=$(mktemp -d)
trap '"$here/down.sh" "$dir"; rm -rf "$dir"' EXIT
"$here/up.sh" "$dir"
export SLURM_CONF=$dir/slurm.conf XDG_STATE_HOME=$dir/home
cd "$root"
.venv/bin/python -m pytest tests/service/slurm --durations=0 "$@"
