"""A Dockerfile followed step by step on a kept Debian root, and what it makes run as an engine would run it.

Not an engine: no layers, no registry, no seccomp profile. What is real is every instruction's effect on the files, and
for the process the namespaces, the root that is read-only, the user, the capabilities (none) and the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import output
from tests.patience import HANG
from tests.run.namespaces import children
from tests.systemd.harness import cgroups, container, images

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KNOWN = {"FROM", "COPY", "RUN", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}


def parse(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest) each; comments dropped, continued lines joined. ValueError for what is not known."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    found = [(line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in joined]
    if unknown := {name for name, _ in found} - KNOWN:
        raise ValueError(f"instructions that are not followed here: {unknown}")
    return found


@dataclass
class Image:
    """What the instructions have made. `guard` is the pid of whoever holds the mount namespace that `root` is in."""

    guard: int
    root: Path
    cgroup: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop: int = signal.SIGTERM

    def inside(self, argv: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program of out here where `root` can be seen and written."""
        command = ["nsenter", "-t", str(self.guard), "-m", "--", *argv]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"'{shlex.join(argv)}' exited {done.returncode}:\n{done.stdout}{done.stderr}")
        return done  # type: ignore[no-any-return]


@contextlib.contextmanager
def build(release: images.Release, context: Path, wheels: Path) -> Iterator[Image]:
    """Follow `context`/Dockerfile on the kept root of `release`. `wheels`: what pip finds in place of PyPI."""
    mountpoint = images.cache() / "machine"
    mountpoint.mkdir(exist_ok=True)
    places = cgroups.places(f"docker-{os.getpid()}")
    with container._guard(images.layers(release), mountpoint, places) as guard:
        image = Image(guard, mountpoint / "root", places[0])
        with _ready(image, release, wheels) as env:
            for instruction, rest in parse((context / "Dockerfile").read_text()):
                _follow(image, context, instruction, rest, env)
        yield image


@contextlib.contextmanager
def _ready(image: Image, release: images.Release, wheels: Path) -> Iterator[Mapping[str, str]]:
    """What an engine gives a RUN: /proc, /dev, a network; here also the way to this machine's mirrors, for a while."""
    root = str(image.root)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "options").write_text(images._apt_options())
        (Path(directory) / "sources").write_text("\n".join(images._sources(release)) + "\n")
        script = """
            mount -t proc proc "$1/proc"; mount --rbind --make-rslave /dev "$1/dev"
            cp "$2/options" "$1/etc/apt/apt.conf.d/99test"; cp "$2/sources" "$1/etc/apt/sources.list"
            cp /etc/resolv.conf "$1/etc/resolv.conf"; mkdir "$1/wheels"; mount --bind "$3" "$1/wheels"
        """
        image.inside(["sh", "-euc", script, "sh", root, directory, str(wheels)])
        try:
            yield {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "DEBIAN_FRONTEND": "noninteractive"}
        finally:
            script = 'umount -l "$1/wheels" "$1/dev" "$1/proc"; rmdir "$1/wheels"; rm "$1/etc/apt/apt.conf.d/99test"'
            image.inside(["sh", "-uc", script, "sh", root])


def _follow(image: Image, context: Path, instruction: str, rest: str, env: Mapping[str, str]) -> None:
    match instruction:
        case "COPY":
            *sources, target = rest.split()
            files = [str(found) for source in sources for found in sorted(context.glob(source))]
            if not files:
                raise ValueError(f"COPY {rest}: nothing to copy")
            script = 'target=$1; shift; mkdir -p "$target"; cp -r "$@" "$target"; chown -R 0:0 "$target"'
            assert target.endswith("/"), "copying under another name is not followed here"
            image.inside(["sh", "-euc", script, "sh", f"{image.root}{target}", *files])
        case "RUN":
            argv = ["chroot", str(image.root), "/bin/sh", "-c", f"cd {image.directory} && {rest}"]
            image.inside(argv, env={**image.environment, **env})
        case "ENV":
            image.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        case "WORKDIR":
            image.directory = rest
            image.inside(["mkdir", "-p", f"{image.root}{rest}"])
        case "USER":
            image.user = rest
        case "STOPSIGNAL":
            image.stop = signal.Signals[rest]
        case "HEALTHCHECK":
            image.health = json.loads(rest.partition("CMD ")[2])
        case "CMD":
            image.command = json.loads(rest)


class Running:
    """The container: `process` is unshare, which exits as PID 1 does; a context manager that leaves nothing."""

    def __init__(self, image: Image, *, cpus: str = "", tmp: bool = True) -> None:
        self.image = image
        self.tmp = f"mount -t tmpfs -o mode=1777 tmp {image.root}/tmp" if tmp else ":"
        self.cpus = cpus or ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.log = output.kept()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Running:
        root = self.image.root
        script = f"""
            echo $$ >{self.image.cgroup}/cgroup.procs
            ip link set lo up
            mount --bind {root} {root}; mount -o remount,ro,bind {root}
            mount -t proc proc {root}/proc; {self.tmp}
            mount -t tmpfs -o mode=0755 dev {root}/dev
            for file in null zero random urandom; do
                touch {root}/dev/$file; mount --bind /dev/$file {root}/dev/$file
            done
            mount -o remount,ro {root}/dev
            exec "$@"
        """
        argv = ["nsenter", "-t", str(self.image.guard), "-m", "--", "unshare", "--mount", "--pid", "--net", "--ipc",
                "--uts", "--fork", "--kill-child", "--", "sh", "-euc", script, "sh", "taskset", "-c", self.cpus,
                "chroot", str(root), *self.become(), *self.image.command]  # fmt: skip
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        return self

    def become(self) -> list[str]:
        """What turns root in there into the user of the image: no group besides, no capability, nothing inherited."""
        uid, _, gid = self.image.user.partition(":")
        privileges = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        variables = [f"{name}={value}" for name, value in self.image.environment.items()]
        return ["setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", *privileges,
                "env", "-i", "-C", self.image.directory, *variables]  # fmt: skip

    @property
    def init(self) -> int:
        assert self.process is not None
        return next(iter(children(self.process.pid)), 0)

    def exec(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: another process in there."""
        command = [
            "nsenter",
            "-t",
            str(self.init),
            "-m",
            "-p",
            "-n",
            "-i",
            "-u",
            "-r",
            "-w",
            "--",
            *self.become(),
            *argv,
        ]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=HANG)

    def get(self, path: str) -> str:
        """The body of one request, from its network; "" when there is no answer."""
        return self.ask(path).communicate(timeout=HANG)[0]

    def ask(self, path: str) -> subprocess.Popen[str]:
        """The same, begun."""
        argv = ["nsenter", "-t", str(self.init), "-n", "curl", "-s", "-m", "20", f"http://127.0.0.1:8000{path}"]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    def established(self) -> int:
        """How many connections clients have open whose bytes were all read."""
        argv = ["nsenter", "-t", str(self.init), "-n", "ss", "-Htn", "state", "established", "sport = :8000"]
        lines = subprocess.run(argv, capture_output=True, text=True, timeout=HANG).stdout.splitlines()
        return sum(line.split()[0] == "0" for line in lines)

    def said(self) -> str:
        return output.read(self.log)

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()  # and with it, by --kill-child, PID 1 and so all
        self.process.wait()
        self.log.close()


def lacks() -> str | None:
    """Why it cannot be done here; None: it can."""
    missing = [
        tool for tool in ("unshare", "nsenter", "setpriv", "taskset", "curl", "ip") if shutil.which(tool) is None
    ]
    return container.unavailable() or (f"missing: {', '.join(missing)}" if missing else None)
