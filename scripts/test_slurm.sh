#!/usr/bin/env bash
# Run the array of precompute, trainings (of two ranks, requeued, told to stop) and a service under a real Slurm of one machine: `make test-slurm`.
# Needs root and Debian's packages
#   apt-get install --no-install-recommends slurm-wlm munge
# Starts its own munged, slurmctld and slurmd, with everything in a temporary folder, and ends them.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN="${BIN:-$PWD/.venv/bin}"
for tool in munged slurmctld slurmd sbatch; do
    PATH="$PATH:/usr/sbin" command -v "$tool" > /dev/null || { echo "skipped: $tool is missing (apt-get install slurm-wlm munge)"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }

work="$(mktemp -d)"
export PATH="$BIN:$PATH:/usr/sbin" OMP_NUM_THREADS=1 SLURM_CONF="$work/slurm.conf"
pids=()
finish() {
    code=$?
    [ $code = 0 ] || tail -n 30 "$work"/*.log "$work"/slurm*log 2> /dev/null || true
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
    rm -rf "$work"
}
trap finish EXIT

mkdir "$work"/{state,spool,munge}
chmod 755 "$work"
chmod 700 "$work/munge"
head -c 128 /dev/urandom > "$work/munge/key"
chmod 600 "$work/munge/key"
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge.socket" \
    --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" &
pids+=($!)
host="$(hostname -s)"
cat > "$SLURM_CONF" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:2
CONF
slurmctld -D > "$work/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D > "$work/slurmd.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    sinfo --noheader --format=%t 2> /dev/null | grep -q idle && break
    sleep 0.2
done
sinfo

cd "$work"
stal-cli dataset synth data --train-videos 4 --test-videos 1 --seed 0 > /dev/null
export DATA="$work/data" STORE="$work/store" SPLIT=train SLOWFAST=random:0 VIT=none
scripts="$OLDPWD/deploy/slurm"

echo "== precompute as an array of 2"
OPTIONS="--slowfast-preset tiny --rows-per-shard 2" \
    sbatch --wait --array=1-2 --cpus-per-task=1 "$scripts/precompute.sbatch"
cat stal-precompute-*.log
stal-cli cache ls "$STORE"
stal-cli cache verify "$STORE"

echo "== train"
export RECIPE=linear RUN_ID=first OPTIONS="--set validation.split=null --set training.epochs=2 --nproc-per-node 2"
sbatch --wait --cpus-per-task=2 "$scripts/train.sbatch"
cat stal-train-*.log
grep -q '"type": "done"' "$STORE/runs/first/events.jsonl"

echo "== train, requeued in the middle"
export RUN_ID=second OPTIONS="--set validation.split=null --set training.epochs=400 --nproc-per-node 1"
job="$(sbatch --parsable --cpus-per-task=2 "$scripts/train.sbatch")"
until [ -e "$STORE/runs/second/checkpoints/latest.safetensors" ]; do sleep 0.2; done
scontrol requeue "$job"
until grep -q '"attempt": 2' "$STORE/runs/second/state.json"; do
    scontrol update JobId="$job" StartTime=now 2> /dev/null || true # Slurm would wait two minutes
    sleep 1
done
while squeue --noheader --job "$job" 2> /dev/null | grep -q .; do sleep 1; done
tail -n 3 "stal-train-$job.log"
grep -q "resumed after" "$STORE/runs/second/events.jsonl"
grep -q '"type": "done"' "$STORE/runs/second/events.jsonl"

ends() { # JOB STATE EXITCODE
    while squeue --noheader --job "$1" 2> /dev/null | grep -q .; do sleep 1; done
    scontrol show job "$1" | tee /dev/stderr | grep -q "JobState=$2"
    scontrol show job "$1" | grep -q "ExitCode=$3"
}

echo "== train, told to stop"
export RUN_ID=third OPTIONS="--set validation.split=null --set training.epochs=4000 --nproc-per-node 1"
job="$(sbatch --parsable --cpus-per-task=2 "$scripts/train.sbatch")"
until grep -q '"type": "step"' "$STORE/runs/third/events.jsonl" 2> /dev/null; do sleep 0.2; done
scancel --signal=TERM --batch "$job"
ends "$job" FAILED 143:0
grep -q '"status": "cancelled"' "$STORE/runs/third/state.json"
test -e "$STORE/runs/third/checkpoints/latest.safetensors"

echo "== a service, told to stop"
export SERVICE=recognizer ADDRESS_FILE="$work/address"
job="$(sbatch --parsable --cpus-per-task=1 "$scripts/service.sbatch" --store "$STORE")"
until [ -s "$ADDRESS_FILE" ]; do sleep 0.2; done
stal-cli status --recognizer "$(cat "$ADDRESS_FILE")"
scancel --signal=TERM --batch "$job"
ends "$job" COMPLETED 0:0
test ! -e "$ADDRESS_FILE"

echo "5 passed, 0 failed"
