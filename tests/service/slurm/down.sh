#!/bin/bash
# Stops what up.sh DIR started.
dir=${1:?the directory given to up.sh}
export SLURM_CONF=$dir/slurm.conf
scancel --state=PENDING 2>/dev/null
scancel --state=RUNNING 2>/dev/null
ours=()
for file in "$dir"/slurmd-n1.pid "$dir"/slurmd-n2.pid "$dir"/slurmctld.pid; do
  [ -s "$file" ] && ours+=("$(cat "$file")")
done
[ -e "$dir/munged-is-ours" ] && ours+=("$(cat /run/munge/munged.pid)")
[ ${#ours[@]} -gt 0 ] && kill "${ours[@]}"
for _ in $(seq 50); do # their folder is about to go
  [ ${#ours[@]} -gt 0 ] && kill -0 "${ours[@]}" 2>/dev/null || break
  sleep 0.2
done
exit 0
