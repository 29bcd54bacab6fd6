#!/bin/bash
# Stops what up.sh DIR started.
dir=${1:?the directory given to up.sh}
export SLURM_CONF=$dir/slurm.conf
scancel --state=PENDING 2>/dev/null
scancel --state=RUNNING 2>/dev/null
for file in "$dir"/slurmd-n1.pid "$dir"/slurmd-n2.pid "$dir"/slurmctld.pid; do
  [ -s "$file" ] && kill "$(cat "$file")"
done
[ -e "$dir/munged-is-ours" ] && kill "$(cat /run/munge/munged.pid)"
exit 0
