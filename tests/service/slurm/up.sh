#!/bin/bash
# One-machine SLURM: munged, slurmctld and two slurmd on loopback; no systemd, no cgroups, no database.
# Usage: up.sh DIR (new or empty). Afterwards: export SLURM_CONF=DIR/slurm.conf.
set -euo pipefail
dir=${1:?a new or empty directory}
here=$(hostname -s)
mkdir -p "$dir"/{state,log}
export SLURM_CONF=$dir/slurm.conf
cat > "$SLURM_CONF" <<CONF
ClusterName=ssemtest
SlurmctldHost=$here(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
ReturnToService=2
SlurmdTimeout=30
MinJobAge=600
KillWait=5
NodeName=n1 NodeHostname=$here NodeAddr=127.0.0.1 Port=16821 CPUs=2 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=$here NodeAddr=127.0.0.1 Port=16822 CPUs=2 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=240 State=UP OverSubscribe=NO
CONF
# Files that stand for GPUs: SLURM hands them out and sets CUDA_VISIBLE_DEVICES, which is all that is tested here.
printf 'NodeName=n[1-2] Name=gpu File=/dev/%s\n' null zero > "$dir/gres.conf"
if [ ! -s /etc/munge/munge.key ]; then
  install -d -o munge -g munge -m 0700 /etc/munge
  runuser -u munge -- /usr/sbin/mungekey -c
fi
if ! munge -n >/dev/null 2>&1; then
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
  runuser -u munge -- /usr/sbin/munged
  touch "$dir/munged-is-ours"
fi
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N n1
slurmd -f "$SLURM_CONF" -N n2
for _ in $(seq 80); do
  [ "$(sinfo -h -o '%T %D' 2>/dev/null)" = "idle 2" ] && exit 0
  sleep 0.25
done
sinfo || true
tail -n 20 "$dir"/log/*.log
exit 1
