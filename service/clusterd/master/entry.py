"""How a master comes to be: systemd or `clusterd run` starts a keeper, which starts `clusterd master --process`."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import clusterd
from clusterd import keeper
from clusterd.config.difference import from_json, to_json
from clusterd.config.environment import EnvironmentFileError, read_environment
from clusterd.config.names import NAME, is_name
from clusterd.config.places import MAX_RUNTIME, SYSTEM, Place, of_user
from clusterd.config.settings import Settings
from clusterd.master import rehearsal
from clusterd.master.context import Context, Key
from clusterd.master.keeping import Keeping
from clusterd.master.loop import Master, drive
from clusterd.master.performing import START_FAILED
from clusterd.master.program import program
from clusterd.master.releases import Source, application_environment
from clusterd.master.streams import Streams
from clusterd.shell import listeners, messages
from clusterd.shell.cgroup import Cgroups
from clusterd.shell.journal import Journal, await_reader
from clusterd.shell.limits import need_descriptors, oom_score, raise_descriptors
from clusterd.shell.notify import Notifier
from clusterd.shell.poll import Poll
from clusterd.shell.signals import ORDERS, Signals

CRASHED = 70
"""EX_SOFTWARE: a bug of ours; the keeper starts another master, and the unit counts it as success."""
UNCONFIGURED = 78
"""EX_CONFIG: there is no socket, and no try of ours brings one. The unit does not start it again."""
FOREGROUND, USER = "--foreground", "--user"
"""Of `clusterd run`; of a user's own systemd."""
RUN = "run.json"
"""In the runtime directory of `clusterd run`: the settings, for there may be no file."""


def start(name: str, *, user: bool = False) -> int:
    """`clusterd [--user] master NAME`, as the unit starts it: become the keeper of NAME's slots.

    Returns the exit status.
    """
    if not is_name(name):
        print(f"clusterd: '{name}' is no name of an application: expected {NAME}", file=sys.stderr)
        return 2
    place = of_user(os.environ, os.getuid()) if user else SYSTEM
    runtime = Path(os.environ.get("RUNTIME_DIRECTORY", f"{place.runtime}/{name}").partition(":")[0])
    given = listeners.given()
    failed = [fd for fd, known in given.items() if known == START_FAILED and stat.S_ISREG(os.fstat(fd).st_mode)]
    sockets, wrong = listeners.opened_by(
        os.getuid() if user else 0, {fd: known for fd, known in given.items() if fd not in failed}
    )
    try:
        slots = listeners.from_fds(sockets)
    except listeners.ListenError as e:
        reason = _without_sockets(name, e, place)
        Notifier().status(reason)
        print(f"clusterd: {name}: {reason}", file=sys.stderr)
        await_reader()
        return UNCONFIGURED
    store = slots.store()
    notifier = Notifier()
    if wrong:
        listed = ", ".join(f"'{known}'" for known in sorted(wrong)[:5])
        Journal(name).record(
            messages.STORE_CLEARED, f"not opened by systemd, or twice in the unit's fd store: {listed}"
        )
        for known in wrong:
            with contextlib.suppress(ValueError):
                notifier.unstore(known)
    for slot, fd in store.items():
        # systemd's own store too: it outlives the drop-in that lists the sockets, should somebody break the file.
        notifier.store(slot, fd)
    if failed:
        store[START_FAILED] = failed[-1]
    kind = [USER] if place.user else []
    launch = program("master", "--process", name, str(runtime), *kind)
    return keeper.keep(launch, store, foreground=False, app=name)


def _without_sockets(name: str, error: listeners.ListenError, place: Place) -> str:
    """Why systemd has passed no sockets, and what to do: mostly it is the file, of which none could be made."""
    from clusterd.config.load import Invalid, load_among

    if not os.path.exists(place.file(name)):
        known = [path.stem for path in Path(place.configuration).glob("*.toml")]
        like = "".join(f", did you mean '{other}'?" for other in difflib.get_close_matches(name, known, 1))
        return f"there is no '{place.file(name)}'{like}: '{place.tool('clusterd')} list' names what there is"
    try:
        settings = load_among(place.file(name), place=place)
    except Invalid as e:
        problems = "; ".join(str(p) for p in e.problems)
        return f"{problems}: repair the file, then run '{place.tool('clusterd')} start {name}'"
    if text := listeners.taken(settings.listen):
        return f"systemd could not open the sockets: {text}"
    if not os.path.exists(f"{place.generated}/cluster@{name}.socket.d"):
        commands = (
            f"'{place.tool('systemctl')} daemon-reload', or '{place.tool('clusterd')} start {name}', which does it"
        )
        return f"systemd has not read '{place.file(name)}' yet: {commands}"
    status = f"{place.tool('systemctl')} status cluster@{name}.socket"
    return f"{error} (NAME is '{name}'; '{status}' may say why there are none)"


def run(settings: Settings, runtime: Path | None = None, options: Sequence[str] = ()) -> int:
    """`clusterd run`: open the sockets, become the keeper, serve until told to stop. Returns the exit status.

    `options` are the fields of `settings` that win over the file's, at each reload too.
    Raises listeners.ListenError, EnvironmentFileError, OSError.
    """
    environment = application_environment(os.environ)
    if settings.environment_file:
        environment |= read_environment(settings.environment_file)
    raise_descriptors()
    need_descriptors(settings.slots * sum(address.kind == "tcp" for address in settings.listen))
    slots = listeners.open_for_run(settings.listen, settings.slots)
    own, lock = runtime, None
    try:
        own = runtime or _temporary(settings.name)
        lock = _lock(own)  # held for as long as this process lives, and by no other that it starts
        _prepare(own)
        with open(own / RUN, "w", encoding="utf-8", opener=_private) as f:
            json.dump({"settings": to_json(settings), "options": list(options), "environment": environment}, f)
        launch = program("master", "--process", settings.name, str(own), FOREGROUND)
        return keeper.keep(launch, slots.store(), foreground=True, app=settings.name)
    finally:
        slots.remove_paths()
        if lock is not None:
            os.close(lock)
        if runtime is None and own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _prepare(directory: Path) -> None:
    """Put there what each master would, so that a full disk is told once: a master would be started for it again."""
    try:
        _copy_library(directory)
    except OSError as e:
        what = f"the runtime directory '{directory}' cannot be written: {e.strerror}"
        raise OSError(f"{what}: make room, or name another with --runtime") from e


def _lock(directory: Path) -> int:
    """A descriptor of the directory that nobody else has locked. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(f"'{directory}' is the --runtime of another 'clusterd run': give each one of its own") from None
    return fd


def _temporary(name: str) -> Path:
    """A new private directory. Raises OSError when there is no place for one.

    Not tempfile's own choice of a place: it ends with the current directory, which is the application's.
    """
    places = [os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix=f"clusterd-{name}-", dir=place))
            if len(os.fsencode(made)) <= MAX_RUNTIME:
                return made
            made.rmdir()
    raise OSError(
        "no directory for the control socket: neither TMPDIR nor /tmp, /var/tmp or /dev/shm can be written: "
        "mount a tmpfs at /tmp, or name one with --runtime"
    )


def main(arguments: Sequence[str]) -> int:
    """`clusterd master --process NAME RUNTIME [--foreground | --user]`: one master, started by a keeper.

    Returns its status.
    """
    try:
        return _main(arguments)
    except Exception:
        # Not Python's 1, which is how a failed reload exits: the unit must take a crash for harmless, and not that.
        traceback.print_exc()
        return CRASHED


def _main(arguments: Sequence[str]) -> int:
    if list(arguments[:1]) == [rehearsal.COMMAND] and len(arguments) == 2 and arguments[1].isdigit():
        return rehearsal.main(int(arguments[1]))
    foreground, user = (flag in arguments[3:] for flag in (FOREGROUND, USER))
    place = of_user(os.environ, os.getuid()) if user else SYSTEM
    if len(arguments) < 3 or arguments[0] != "--process" or keeper.CHANNEL not in os.environ:
        print("clusterd: 'clusterd master NAME' is what the unit cluster@NAME runs", file=sys.stderr)
        return 2
    name, runtime = arguments[1], Path(arguments[2])
    signals = Signals(ORDERS)
    channel = int(os.environ.pop(keeper.CHANNEL))
    os.set_inheritable(channel, False)
    poll: Poll[Key] = Poll()
    keeping = Keeping(socket.socket(fileno=channel), poll)
    cgroups = Cgroups.find()
    cgroups.enter("master")
    cgroups.enable()
    journal = Journal(name, native=False if foreground else None)
    context = Context(
        name=name,
        runtime=runtime,
        foreground=foreground,
        keeping=keeping,
        cgroups=cgroups,
        journal=journal,
        streams=Streams(journal),
        notifier=Notifier(),
        poll=poll,
        slots=listeners.from_store(keeping.fds),
        library=_copy_library(runtime),
        place=place,
        oom_score=oom_score(),
    )
    if not foreground and not cgroups.delegated:
        context.journal.record(messages.UNDELEGATED, f"no cgroup for each worker: {cgroups.why}")
    if foreground:
        source, environment = _given(runtime)
    else:
        source, environment = Source(place.file(name), place=place), application_environment(os.environ)
    master = Master(context, source, environment, signals, program("master", *arguments))
    return drive(master.loop(), context.poll)


def _given(runtime: Path) -> tuple[Source, dict[str, str]]:
    """What `run` wrote down."""
    saved = json.loads((runtime / RUN).read_text(encoding="utf-8"))
    settings = from_json(saved["settings"])
    return Source(settings.file, settings, saved["options"]), saved["environment"]


def _copy_library(runtime: Path) -> Path:
    """Copy the worker side, so that an old master never boots workers from a new version's files.

    Named by its contents: two builds of one version, as packagers make them, do not mix.
    """
    source = Path(clusterd.__file__).parent
    files = {"clusterd_zygote.py": source.parent / "clusterd_zygote.py", "clusterd/__init__.py": source / "__init__.py"}
    for path in sorted((source / "worker").rglob("*.py")):
        files[f"clusterd/{path.relative_to(source)}"] = path
    contents = {name: path.read_bytes() for name, path in files.items()}
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + data for name, data in contents.items())).hexdigest()
    target = runtime / f"lib-{clusterd.__version__}-{digest[:8]}"
    if not target.exists():
        made = Path(tempfile.mkdtemp(prefix="lib-", dir=runtime))
        for name, data in contents.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
        made.chmod(0o755)
        made.rename(target)
    return target


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


__all__ = ["EnvironmentFileError", "main", "run", "start"]
