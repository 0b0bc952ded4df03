#!/bin/sh
# Makes a layer over a kept root: add.sh BASE DIRECTORY, in a mount namespace of its own.
#
# DIRECTORY has upper/, work/, root/, wheels/N/ and apt.conf; upper/ is the layer afterwards. From the environment:
# PACKAGES (Debian's, by this machine's apt, which knows the way to the mirrors), VENVS (a line each: directory and
# requirements, installed from wheels/N/), SCRIPT (run chrooted at last).
set -eu
base=$1 directory=$2
root=$directory/root
mount -t overlay -o "lowerdir=$base,upperdir=$directory/upper,workdir=$directory/work" layer "$root"
mount -t proc proc "$root/proc"
mount --rbind --make-rslave /dev "$root/dev"

if [ -n "$PACKAGES" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    enabled() { chroot "$root" systemctl list-unit-files --state=enabled --no-legend --no-pager | cut -d ' ' -f 1 | sort; }
    enabled >"$directory/before"
    apt() {
        DEBIAN_FRONTEND=noninteractive APT_CONFIG="$directory/apt.conf" apt-get -q -y -o "Dir=$root" \
            -o "Dir::State::Status=$root/var/lib/dpkg/status" -o "DPkg::Chroot-Directory=$root" -o Dpkg::Use-Pty=false \
            -o APT::Sandbox::User=root -o "APT::Architecture=$(dpkg --print-architecture)" "$@" </dev/null
    }
    apt update
    # shellcheck disable=SC2086 # a word a package
    apt --no-install-recommends install $PACKAGES
    enabled | comm -13 "$directory/before" - | xargs -r chroot "$root" systemctl disable
    rm -rf "$root"/usr/sbin/policy-rc.d "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
fi

number=0
printf '%s\n' "$VENVS" | while read -r venv requirements; do
    [ -n "$venv" ] || continue
    chroot "$root" python3 -m venv "$venv"
    mkdir "$root/wheels"
    cp "$directory/wheels/$number"/* "$root/wheels/"
    # shellcheck disable=SC2086 # a word a requirement
    chroot "$root" "$venv/bin/pip" install -q --no-index --find-links=/wheels $requirements
    rm -rf "$root/wheels"
    number=$((number + 1))
done

[ -z "$SCRIPT" ] || chroot "$root" /bin/sh -euc "$SCRIPT"
umount -l "$root/dev"
umount "$root/proc" "$root"
