#!/bin/sh
# Holds a machine's mounts and ends the machine: guard.sh LOWER MOUNTPOINT CGROUP...
#
# Runs in a mount namespace of its own, with a cgroup v2 directory as the first CGROUP. Says "ready" when the overlay
# is mounted. End of file on standard input, which also comes when the tests are killed, is the order to clean up, so
# that there is one way out and nothing of a machine outlives it: cgroup.kill reaches every process in there, and the
# mounts go with the namespace.
set -eu
lower=$1 mountpoint=$2
shift 2

clean_up() {
    [ ! -e "$1/cgroup.kill" ] || echo 1 >"$1/cgroup.kill"
    tries=0
    while [ "$tries" -lt 200 ] && grep -qs 'populated 1' "$1/cgroup.events"; do
        tries=$((tries + 1))
        sleep 0.05
    done
    for cgroup; do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || :
    done
}
trap 'clean_up "$@"' EXIT

mkdir -p "$@"
mount -t tmpfs -o mode=0755 machine "$mountpoint"
mkdir "$mountpoint/upper" "$mountpoint/work" "$mountpoint/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$mountpoint/upper,workdir=$mountpoint/work" machine "$mountpoint/root"
# A unified hierarchy hands its controllers down only when asked; a hybrid one has them in the other hierarchies.
for controller in cpu memory pids; do
    echo "+$controller" >"$(dirname "$1")/cgroup.subtree_control" || :
done 2>/dev/null
echo ready
cat >/dev/null
