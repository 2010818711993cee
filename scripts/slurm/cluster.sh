#!/usr/bin/env bash
# A Slurm cluster of one machine, to try jobs on: scripts/slurm/cluster.sh start|stop FOLDER
#   start   install Slurm where it is missing (Debian, as root), start munge, controller and node; all files in FOLDER
#   stop    end all jobs and the three services
# Then: export SLURM_CONF=FOLDER/slurm.conf; sbatch ...
# It needs neither systemd nor control groups, so that it runs in containers; the node claims 4 processors.
set -euo pipefail

die() {
    printf 'error: %s\n       %s\n' "$1" "$2" >&2
    exit 1
}

[[ $# == 2 ]] || { sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
action="$1"
mkdir -p "$2"
folder="$(cd "$2" && pwd)"
export SLURM_CONF="$folder/slurm.conf"

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

await() { # SECONDS COMMAND ...
    for _ in $(seq $((10 * $1))); do
        "${@:2}" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}

# Mirrors fail now and then, and another process may hold the lock of the packages.
install_slurm() {
    local attempt
    for attempt in 1 2 3; do
        if apt-get update -qq &&
            apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 slurm-wlm munge; then return; fi
        sleep $((5 * attempt))
    done
    return 1
}

start() {
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null ||
            die "Slurm is not installed." "Install it (Debian: apt-get install slurm-wlm munge), or start this as root."
        export DEBIAN_FRONTEND=noninteractive
        install_slurm >"$folder/apt.log" 2>&1 ||
            die "Slurm cannot be installed: $(grep -v '^$' "$folder/apt.log" | tail -n 1)" "See $folder/apt.log"
    fi
    mkdir -p "$folder"/{state,spool,munge}
    chmod 700 "$folder/munge"
    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" || die "munge does not start." "See $folder/munge/log"
    local host user
    host="$(hostname -s)"
    user="$(id -un)"
    # Requeued jobs wait until their old credential has expired: 120 s by default.
    cat >"$SLURM_CONF" <<END
ClusterName=hiphop
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=1
KillWait=5
InactiveLimit=0
MessageTimeout=60
SlurmdTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmctld || die "slurmctld does not start." "See $folder/slurmctld.log"
    slurmd || die "slurmd does not start." "See $folder/slurmd.log"
    await 30 bash -c 'sinfo --noheader --format=%T | grep -q idle' || die "the node does not come up." "See $folder/*.log"
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    [[ ! -f "$SLURM_CONF" ]] || scancel --user="$(id -un)" 2>/dev/null || true
    await 10 bash -c '[[ -z "$(squeue --noheader)" ]]' || true
    for name in slurmd slurmctld munge/munged; do
        pid_file="$folder/${name/munged/pid}"
        [[ "$name" == munge/munged ]] || pid_file="$folder/$name.pid"
        [[ -f "$pid_file" ]] || continue
        pid="$(cat "$pid_file")"
        kill "$pid" 2>/dev/null || true
        await 10 bash -c "! kill -0 $pid" || kill -9 "$pid" 2>/dev/null || true
    done
}

case "$action" in
    start) start ;;
    stop) stop ;;
    *) die "unknown action '$action'." "Usage: scripts/slurm/cluster.sh start|stop FOLDER" ;;
esac
