#!/bin/sh
# boot.sh ROOT [CGROUP]: becomes systemd over the directory ROOT, in the cgroup CGROUP (a directory of cgroup2). It has to be
# process 1 of new pid, mount, uts, ipc and net namespaces (machine.py starts it); what it mounts goes with them.
set -eu

if [ $# = 2 ]; then
    echo 0 >"$2/cgroup.procs"
    exec unshare --cgroup "$0" "$1"
fi
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# read-only, so that it leaves the settings of the host's kernel alone
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
pivot_root . .
umount -l .
cd /
exec env -i container=kourou-test /lib/systemd/systemd --show-status=no
