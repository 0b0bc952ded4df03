"""One machine: Debian under its own systemd, with a network of its own, that leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests import output
from tests.patience import HANG
from tests.systemd.harness import cgroups, images

T = TypeVar("T")
Done = subprocess.CompletedProcess[str]
Started = tuple["subprocess.Popen[bytes]", int]
"""nspawn, and the machine's PID 1 as it is numbered out here."""

BOOT_SECONDS = 90.0
"""A boot takes one second; a machine shared with other work may take many."""

_REBOOT = 133
"""How nspawn exits when what ran in it asked for a reboot, and it was told --keep-unit."""

GUARD = Path(__file__).with_name("guard.sh")
TOOLS = ("mmdebstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv", "wrk", "ab")

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PAGER": "cat",
}
_counter = itertools.count(1)


class ContainerError(Exception):
    """The machine does not boot, or a command in it failed. The text has the command and what it said."""


def unavailable() -> str | None:
    """Why no machine can be booted here, in words for a person; None if it can."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"missing: {', '.join(missing)} (`make test` as root installs them)"
    if not cgroups.writable():
        return "no cgroup v2 that this process may write"
    return None


class Container:
    """A booted machine. Made by `boot`; every method raises ContainerError when the machine is gone."""

    def __init__(self, name: str, release: images.Release, start: Callable[[], Started]) -> None:
        self.name = name
        self.release = release
        self.leader = 0
        """The pid, out here, of its PID 1."""
        self._start = start
        self._nspawn: subprocess.Popen[bytes] | None = None

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = HANG,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command inside as root, in '/'. Ended by SIGKILL at `timeout` seconds, which always raises."""
        return self._run(["nsenter", "-t", str(self.leader), "-a", "--"], argv, check, timeout, input, env)

    def sh(self, script: str, *, check: bool = True, timeout: float = HANG) -> Done:
        """Run a script by the machine's /bin/sh -eu."""
        return self.run(["/bin/sh", "-euc", script], check=check, timeout=timeout)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command inside and return at once; the caller ends it, at the latest the machine's end does."""
        command = ["nsenter", "-t", str(self.leader), "-a", "--", *argv]
        return subprocess.Popen(command, text=True, env=_ENVIRONMENT, start_new_session=True, **options)

    def host_argv(self, argv: Sequence[str]) -> list[str]:
        """The argv that runs a program of the tests' machine in the container's network, and that ends with us."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", "-t", str(self.leader), "-n", "--", *argv]

    def host_exec(self, argv: Sequence[str], *, check: bool = True, timeout: float = HANG) -> Done:
        """Run a program of the machine the tests run on (wrk, ab) in the container's network."""
        return self._run(self.host_argv([]), argv, check, timeout, None, os.environ)

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = HANG) -> Done:
        return self.run(["systemctl", "--no-pager", *arguments], check=check, timeout=timeout)

    def show(self, unit: str, property: str) -> str:
        """One property as `systemctl show -P` prints it; '' where the unit has none."""
        return self.systemctl("show", "-P", property, unit).stdout.rstrip("\n")

    def journal(self, *matches: str, unit: str | None = None, after: str | None = None) -> list[dict[str, Any]]:
        """The records there are now, oldest first; `after` is a __CURSOR. A field of bytes is a list of numbers."""
        self.run(["journalctl", "--sync"])
        argv = ["journalctl", "-o", "json", "--all", "--no-pager"]
        argv += ["-u", unit] if unit else []
        # Not --after-cursor: with matches 252 skips the first that matches in place of the one at the cursor.
        argv += ["--cursor", after] if after else []
        records = (json.loads(line) for line in self.run([*argv, *matches]).stdout.splitlines())
        return [record for record in records if record["__CURSOR"] != after]

    def cursor(self) -> str:
        """Where the journal ends now, for `journal(after=...)`."""
        self.run(["journalctl", "--sync"])
        shown = self.run(["journalctl", "-n", "1", "--show-cursor", "-q"]).stdout
        return shown.rsplit("-- cursor: ", 1)[-1].strip()

    def write(self, path: str, text: str, *, mode: str = "0644", owner: str = "root:root") -> None:
        """Write a file whole (by rename, so that nobody inside reads half of it) and make the directories above it."""
        script = (
            'mkdir -p "$(dirname "$1")"; cat >"$1.new"; chmod "$2" "$1.new"; chown "$3" "$1.new"; mv -T "$1.new" "$1"'
        )
        # Not through /proc/PID/root: an absolute symbolic link in the path would lead out of the machine.
        self.run(["/bin/sh", "-euc", script, "sh", path, mode, owner], input=text)

    def read(self, path: str) -> str:
        return self.run(["cat", "--", path]).stdout

    def exists(self, path: str) -> bool:
        return self.run(["test", "-e", path], check=False).returncode == 0

    def copy(self, source: Path, path: str) -> None:
        """Copy a file to `path`, or a directory's contents into the directory `path` (made if it is not there)."""
        if source.is_dir():
            pack, unpack = (
                ["tar", "-C", str(source), "--exclude=__pycache__", "-c", "."],
                ["tar", "-C", path, "--no-same-owner", "-x"],
            )
            self.run(["mkdir", "-p", path])
        else:
            pack, unpack = ["cat", str(source)], ["/bin/sh", "-euc", 'cat >"$1"', "sh", path]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            argv = ["nsenter", "-t", str(self.leader), "-a", "--", *unpack]
            done = subprocess.run(argv, stdin=packing.stdout, capture_output=True, text=True, env=_ENVIRONMENT)
        if packing.returncode or done.returncode:
            raise ContainerError(f"{self.name}: copying '{source}' to '{path}': {done.stderr}")

    def install_deb(self, deb: Path) -> Done:
        """Install or upgrade in the running machine, as an administrator's `dpkg -i` does."""
        self.copy(deb, f"/tmp/{deb.name}")
        return self.run(["dpkg", "-i", f"/tmp/{deb.name}"], env={"DEBIAN_FRONTEND": "noninteractive"})

    def wait_for(self, what: str, probe: Callable[[], T], *, timeout: float = HANG, interval: float = 0.05) -> T:
        """Ask until `probe` returns something true, and return that. The last resort, where no event tells."""
        end = time.monotonic() + timeout
        while not (found := probe()):
            if time.monotonic() > end:
                raise ContainerError(f"{self.name}: waited {timeout} s in vain for: {what}")
            time.sleep(interval)
        return found

    def counters(self) -> dict[str, int]:
        """The kernel's TcpExt counters of this machine's network, ListenDrops and ListenOverflows among them."""
        lines = Path(f"/proc/{self.leader}/net/netstat").read_text().splitlines()
        names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
        return dict(zip(names, map(int, values), strict=True))

    def listeners(self, port: int) -> list[int]:
        """The inodes of the TCP sockets that listen on `port`, sorted: which they are matters, not who holds them."""
        shown = self.host_exec(["ss", "-Hltne", f"sport = :{port}"]).stdout
        return sorted(int(inode) for inode in re.findall(r"\bino:(\d+)", shown))

    def processes(self, unit: str) -> list[int]:
        """The pids, as the machine numbers them, of everything in the unit's cgroup and below it."""
        group = self.show(unit, "ControlGroup")
        if not group:
            return []
        script = 'find "/sys/fs/cgroup$1" -name cgroup.procs -exec cat {} + 2>/dev/null || :'
        return sorted(map(int, self.run(["/bin/sh", "-c", script, "sh", group]).stdout.split()))

    def poweroff(self, timeout: float = HANG) -> None:
        """Shut down in order, as `systemctl poweroff` does; the machine is gone afterwards."""
        self.systemctl("poweroff", check=False)
        assert self._nspawn is not None
        try:
            self._nspawn.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ContainerError(f"{self.name}: still running {timeout} s after poweroff") from None

    def reboot(self) -> None:
        """Shut down in order and boot again, as `systemctl reboot` does: the same disk, and nothing else of before."""
        self.systemctl("reboot", check=False)
        assert self._nspawn is not None
        if (status := self._nspawn.wait(BOOT_SECONDS)) != _REBOOT:
            raise ContainerError(f"{self.name}: it ended with status {status} instead of a reboot")
        self.power_on()

    def power_on(self) -> None:
        """Boot; the machine is up afterwards."""
        self._nspawn, self.leader = self._start()
        self.systemctl("is-system-running", "--wait", check=False, timeout=BOOT_SECONDS)
        self.run(["ip", "link", "set", "lo", "up"])

    def end(self) -> None:
        """End nspawn at once: whatever its machine still runs is the guard's to kill."""
        if self._nspawn is not None:
            self._nspawn.kill()
            self._nspawn.wait()

    def _run(
        self,
        enter: Sequence[str],
        argv: Sequence[str],
        check: bool,
        timeout: float,
        input: str | None,
        env: Mapping[str, str] | None,
    ) -> Done:
        # timeout(1) rather than ours, which would end nsenter only: what it forked in the pid namespace would live on.
        command = [*enter, "timeout", "-s", "KILL", f"{timeout:.3f}", *argv]
        given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        start = time.monotonic()
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**_ENVIRONMENT, **(env or {})}, **given
        )
        said = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
        if done.returncode in (137, -signal.SIGKILL) and time.monotonic() - start >= timeout:
            raise ContainerError(f"{self.name}: '{shlex.join(argv)}' was not done in {timeout} s:\n{said}")
        if check and done.returncode:
            raise ContainerError(f"{self.name}: '{shlex.join(argv)}' exited {done.returncode}:\n{said}")
        return done


@contextlib.contextmanager
def boot(
    release: images.Release, debs: Sequence[Path] = (), addition: images.Addition | None = None
) -> Iterator[Container]:
    """A fresh machine with `debs` installed before the boot, until the end of the block. Raises ContainerError."""
    lower = images.layers(release, addition)
    mountpoint = images.cache() / "machine"  # the same for all: each mounts there in a namespace of its own
    mountpoint.mkdir(exist_ok=True)
    name = f"{release.name}-{os.getpid()}-{next(_counter)}"
    places = cgroups.places(name)
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(_guard(lower, mountpoint, places))
        root = mountpoint / "root"
        if debs:
            _install(guard, root, debs)
        log = stack.enter_context(output.kept())
        container = Container(name, release, lambda: _start(name, guard, root, places, log))
        stack.callback(container.end)
        container.power_on()
        yield container


def _start(name: str, guard: int, root: Path, places: Sequence[Path], log: Any) -> Started:
    # Closed when the machine is up: every daemon-reload in there sends another READY=1, and with nobody who reads
    # them the queue fills, nspawn blocks in its sendmsg(), and then the machine's PID 1 in its own.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"\0clusterd-test-{name}")
        nspawn = _nspawn(name, guard, root, places, log)
        try:
            return nspawn, _leader(name, nspawn, notify, log)
        except BaseException:
            nspawn.kill()
            nspawn.wait()
            raise


@contextlib.contextmanager
def _guard(lower: str, mountpoint: Path, places: Sequence[Path]) -> Iterator[int]:
    argv = ["unshare", "--mount", "--propagation", "slave", str(GUARD), lower, str(mountpoint), *map(str, places)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as guard:
        assert guard.stdin and guard.stdout and guard.stderr
        try:
            if guard.stdout.readline() != "ready\n":
                raise ContainerError(f"no overlay for a machine: {guard.stderr.read()}")
            yield guard.pid
        finally:
            guard.stdin.close()
            guard.wait()


def _nspawn(name: str, guard: int, root: Path, places: Sequence[Path], log: Any) -> subprocess.Popen[bytes]:
    join = "".join(f"echo $$ >{shlex.quote(str(place))}/cgroup.procs; " for place in places)
    argv = [
        "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}", "--boot", "--notify-ready=yes",
        "--register=no", "--keep-unit", "--private-network", "--console=pipe",
        "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        # A real machine's PID 1 can hand these to a service.
        "--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf",
    ]  # fmt: skip
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "nsenter", "-t", str(guard), "-m", "--",
         "/bin/sh", "-euc", f'{join}exec "$@"', "sh", *argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # a Ctrl-C is for the tests
        env={
            **_ENVIRONMENT,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "NOTIFY_SOCKET": f"@clusterd-test-{name}",
        },
    )  # fmt: skip


def _leader(name: str, nspawn: subprocess.Popen[bytes], notify: socket.socket, log: Any) -> int:
    """Wait until the machine's PID 1 says that the boot is done; its pid, which nspawn tells in the same way."""
    end = time.monotonic() + BOOT_SECONDS
    leader = 0
    with contextlib.closing(os.fdopen(os.pidfd_open(nspawn.pid))) as death:
        while True:
            readable, _, _ = select.select([notify, death], [], [], max(0.0, end - time.monotonic()))
            if notify not in readable:
                what = "ended" if death in readable else f"was not up in {BOOT_SECONDS} s"
                raise ContainerError(f"{name}: the machine {what}:\n{output.read(log)[-4000:]}")
            for line in notify.recv(4096).decode().splitlines():
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                elif key == "READY" and leader:
                    return leader


def _install(guard: int, root: Path, debs: Sequence[Path]) -> None:
    """Install packages into a machine that is not running."""
    inside = [f"/tmp/{deb.name}" for deb in debs]
    script = 'root=$1; shift; cp -- "$@" "$root/tmp/"; mount -t proc proc "$root/proc"'
    _in_guard(guard, ["/bin/sh", "-euc", script, "sh", str(root), *map(str, debs)])
    _in_guard(guard, ["chroot", str(root), "dpkg", "-i", *inside])
    _in_guard(guard, ["umount", str(root / "proc")])


def _in_guard(guard: int, argv: Sequence[str]) -> None:
    env = {**_ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["nsenter", "-t", str(guard), "-m", "--", *argv], capture_output=True, text=True, env=env)
    if done.returncode:
        raise ContainerError(f"'{shlex.join(argv)}' exited {done.returncode}:\n{done.stdout}{done.stderr}")
