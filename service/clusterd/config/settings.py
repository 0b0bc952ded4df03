"""The table of settings.

One row per setting: the field of a dataclass below, with its type, its default and a Setting beside it. The parser
(load.py), the difference (difference.py), the manual (manual.py) and the tests all read TABLE, which is made of them.
A field's key in the file is its name with '-' for '_', below the name of its table: `reload.ready-timeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from clusterd.config import confinement, kinds
from clusterd.config.addresses import Address
from clusterd.config.cores import MAX_SLOTS
from clusterd.config.kinds import Kind

T = TypeVar("T")

Applies = Literal["reload", "daemon-reload", "restart", "socket restart"]
Only = Literal["both", "app", "command"]


@dataclass(frozen=True)
class Setting:
    """A row. `default` and `doc` are for the manual; `only` names the sort of application it is for."""

    kind: Kind
    doc: str
    default: str
    applies: Applies = "reload"
    only: Only = "both"
    key: str = ""
    """Filled in by TABLE."""


def _row(
    kind: Kind,
    doc: str,
    value: T | None = None,
    *,
    make: Callable[[], T] | None = None,
    default: str,
    applies: Applies = "reload",
    only: Only = "both",
) -> T:
    # typed as the value, as dataclasses.field() itself is, so that the class below reads and checks as a plain one
    metadata = {"setting": Setting(kind, doc, default, applies, only)}
    made: Any = field(default_factory=make, metadata=metadata) if make else field(default=value, metadata=metadata)
    found: T = made
    return found


@dataclass(frozen=True)
class Http:
    """What the engine is told. Which engine can do what is in worker/abilities.py; None: as the engine has it."""

    keep_alive: float = _row(
        kinds.seconds(0, 3600),
        "How long a connection may stay open with no request on it.",
        5.0,
        default='"5s"',
        only="app",
    )
    forwarded_allow_ips: tuple[str, ...] = _row(
        kinds.TRUSTED,
        "Peers whose X-Forwarded-For and X-Forwarded-Proto are believed, and so what the application takes for the "
        'client\'s address and for https: IP addresses, networks ("10.0.0.0/8"), "unix" for whoever may connect to a '
        'UNIX socket, or "*" for everybody. [] is nobody.',
        ("127.0.0.1", "::1", "unix"),
        default='["127.0.0.1", "::1", "unix"]',
        only="app",
    )
    root_path: str = _row(
        kinds.ROOT_PATH,
        "The path below which a proxy serves the application (SCRIPT_NAME).",
        "",
        default="none",
        only="app",
    )
    max_connections: int | None = _row(
        kinds.number(1, 1_000_000),
        "Connections one worker takes; above it, it answers 503 or lets them wait, as its engine does.",
        None,
        default="no limit",
        only="app",
    )
    max_header_size: int | None = _row(
        kinds.size(1 << 10, 16 << 20),
        "Bytes that the first line and the headers of a request may have together.",
        None,
        default="the engine's",
        only="app",
    )
    max_body_size: int | None = _row(
        kinds.size(1, 1 << 40),
        "Bytes that the body of a request may have.",
        None,
        default="the engine's",
        only="app",
    )
    threads: int | None = _row(
        kinds.number(1, 1024),
        "Threads of one worker that run requests, so how many it works on at once.",
        None,
        default="the engine's",
        only="app",
    )
    parser: Literal["auto", "h11", "httptools"] = _row(
        kinds.choice("auto", "h11", "httptools"),
        'What reads requests. "auto": httptools where it is installed, else h11.',
        "auto",
        default='"auto"',
        only="app",
    )
    loop: Literal["auto", "asyncio", "uvloop"] = _row(
        kinds.choice("auto", "asyncio", "uvloop"),
        'The event loop. "auto": uvloop where it is installed.',
        "auto",
        default='"auto"',
        only="app",
    )
    version: Literal["auto", "1", "2"] = _row(
        kinds.choice("auto", "1", "2"),
        'The HTTP that is spoken. "auto": all that the engine can.',
        "auto",
        default='"auto"',
        only="app",
    )
    ws: Literal["auto", "none", "websockets", "wsproto"] = _row(
        kinds.choice("auto", "none", "websockets", "wsproto"),
        'What speaks WebSocket. "auto": what is installed; "none": they are refused.',
        "auto",
        default='"auto"',
        only="app",
    )
    ws_max_size: int = _row(
        kinds.size(1, 1 << 30),
        "Bytes of one WebSocket message; a longer one ends the connection.",
        16 << 20,
        default='"16M"',
        only="app",
    )
    ws_ping_interval: float = _row(
        kinds.seconds(0, 3600),
        'How often an open WebSocket is pinged. "0s": never.',
        20.0,
        default='"20s"',
        only="app",
    )
    ws_ping_timeout: float = _row(
        kinds.seconds(0, 3600),
        'How long it may take to answer one, then it is closed. "0s": for ever.',
        20.0,
        default='"20s"',
        only="app",
    )
    server_header: bool = _row(
        kinds.SWITCH, "Whether answers name the engine (Server:).", True, default="true", only="app"
    )
    date_header: bool = _row(kinds.SWITCH, "Whether answers have a Date: header.", True, default="true", only="app")


@dataclass(frozen=True)
class Tls:
    """Both or none. Their contents are never here: see certificates.py."""

    certificate: str | None = _row(
        kinds.PEM,
        "The certificate and what leads to its root, in PEM: a path, or the name of a credential of the unit "
        "(LoadCredential=). With it the addresses speak HTTPS and nothing else. Read anew at each reload.",
        None,
        default="none: plain HTTP",
        only="app",
    )
    key: str | None = _row(
        kinds.PEM,
        "The certificate's private key, likewise. It may be readable by root alone: systemd reads it at a start, and "
        "'clusterd reload' as root at a reload; 'systemctl reload' too, unless others than root may write the "
        "environment-file.",
        None,
        default="none",
        only="app",
    )
    minimum_version: Literal["1.2", "1.3"] = _row(
        kinds.choice("1.2", "1.3"), "The oldest TLS that is spoken.", "1.2", default='"1.2"', only="app"
    )


@dataclass(frozen=True)
class Reload:
    surge: int | None = _row(
        kinds.number(1, 1024, "all"),
        'How many new workers are made before old ones go. "all": the complete new generation is ready '
        "and has soaked before the first old worker leaves, so a refused reload costs nothing. A number "
        "where memory is short.",
        None,
        default='"all"',
    )
    soak: float = _row(
        kinds.seconds(0, 3600), "How long the new workers must live, ready, before they take over.", 2.0, default='"2s"'
    )
    watch: float = _row(
        kinds.seconds(0, 86400),
        "How long after a reload a generation that keeps dying is replaced by the one before it.",
        30.0,
        default='"30s"',
    )
    ready_timeout: float = _row(
        kinds.seconds(0.1, 3600),
        "How long a worker may take until it is ready, the import of the application included.",
        60.0,
        default='"60s"',
    )
    drain_timeout: float = _row(
        kinds.seconds(0, 86400),
        "How long an old worker may take to finish what it has; then it is killed.",
        30.0,
        default='"30s"',
    )
    linger: float = _row(
        kinds.seconds(0, 3600),
        "How long a draining worker waits on idle connections for a last request, before it closes them.",
        5.0,
        default="http.keep-alive, at most reload.drain-timeout",
    )
    preload: Literal["auto", "force", "never"] = _row(
        kinds.PRELOAD,
        "Workers are forked from a process that has imported the application, unless the import left "
        'threads, connections or the like behind. "force" forks all the same; false never does.',
        "auto",
        default="found out by looking",
        only="app",
    )
    max_generations: int = _row(
        kinds.number(2, 1000),
        "How many generations may have workers at once, those that drain included: a further reload cuts the drain of "
        "the oldest.",
        10,
        default="10",
    )


@dataclass(frozen=True)
class Stop:
    drain_timeout: float = _row(
        kinds.seconds(0, 3600),
        "As reload.drain-timeout, at stop and restart. Short, because new clients wait that long at a restart.",
        5.0,
        default='"5s"',
    )


@dataclass(frozen=True)
class Restart:
    delay: float = _row(
        kinds.seconds(0.01, 3600),
        "How long after its death a worker that dies early is replaced; grows by half with each further death.",
        0.1,
        default='"100ms"',
    )
    max_delay: float = _row(kinds.seconds(0.01, 3600), "What the delay grows to.", 30.0, default='"30s"')
    spares: int = _row(
        kinds.number(0, 64),
        "Workers kept ready beyond those that serve: one takes the place of a worker that dies, at once. Worth their "
        "memory where a worker takes long to become ready, in its lifespan start-up for example.",
        0,
        default="0",
        only="app",
    )


@dataclass(frozen=True)
class Health:
    path: str | None = _row(
        kinds.URL_PATH,
        "Asked of each new worker, inside it, before it is ready; anything but a 2xx or 3xx answer fails it.",
        None,
        default="no check",
        only="app",
    )

    watchdog: float | None = _row(
        kinds.or_never(kinds.seconds(2, 86400)),
        "After how long without a sign of life a worker hangs: then its stacks go to the journal, another takes its "
        "place, and it is killed if it does not come back within as long again. The sign is given by the event loop; "
        "for WSGI by a request that ends, while all threads are busy; a command gives it by WATCHDOG=1. false: never.",
        15.0,
        default='"15s"; of a command, false',
    )


@dataclass(frozen=True)
class Recycle:
    """Replaced one after another, each once its successor serves."""

    max_requests: int | None = _row(
        kinds.number(1, 10**12),
        "After so many requests a worker is replaced.",
        None,
        default="never",
        only="app",
    )
    max_requests_jitter: int = _row(
        kinds.number(0, 10**12),
        "Up to so many more, by chance for each worker, so that they do not all go together.",
        0,
        default="a tenth of max-requests",
        only="app",
    )
    max_age: float | None = _row(
        kinds.seconds(1, 366 * 86400),
        "After so long a worker is replaced; up to a tenth later, for the same reason.",
        None,
        default="never",
    )
    max_memory: int | None = _row(
        kinds.size(1 << 20, 1 << 50),
        "A worker that takes more than so much memory is replaced: what it shares with others counts in parts (PSS), "
        "its children's is added. Looked at every five seconds.",
        None,
        default="never",
    )


@dataclass(frozen=True)
class Log:
    access: bool = _row(kinds.SWITCH, "Whether each request is logged.", False, default="false", only="app")
    level: Literal["debug", "info", "warning", "error"] = _row(
        kinds.choice("debug", "info", "warning", "error"),
        "The least important messages of the engine and the worker that are logged.",
        "info",
        default='"info"',
    )


@dataclass(frozen=True)
class Sandbox:
    write: tuple[str, ...] = _row(
        kinds.WRITE,
        "What the application writes besides its own /tmp, STATE_DIRECTORY and RUNTIME_DIRECTORY: directories that are "
        "there when it starts, and that belong to its user. All else is read-only.",
        (),
        default="none",
        applies="restart",
    )
    home: Literal["auto", "hidden", "read-only", "writable"] = _row(
        kinds.HOME,
        'What it sees of /home, /root and /run/user. "auto": they are hidden, or read-only where directory, python, '
        "the program of the command or a path of write is below one.",
        "auto",
        default='"auto"',
        applies="restart",
    )
    groups: tuple[str, ...] = _row(
        kinds.GROUPS,
        "Further groups it is a member of, such as that of a database's socket or of a device.",
        (),
        default="none",
        applies="restart",
    )
    devices: tuple[str, ...] = _row(
        kinds.DEVICES,
        'Devices it may open, by path or all of a driver ("char-drm"), where their own permissions let it.',
        (),
        default="none but /dev/null and its like",
        applies="restart",
    )
    network: Literal["full", "local"] | tuple[str, ...] = _row(
        kinds.NETWORK,
        'What it may reach. "local": this machine only; a list of addresses or prefixes: these besides. Those who '
        "connect to it are not concerned.",
        "full",
        default='"full"',
        applies="restart",
    )
    jit: bool = _row(
        kinds.SWITCH,
        "Whether it may make code at run time, as Node.js, Java, PyPy and numba do.",
        True,
        default="true",
        applies="restart",
    )
    namespaces: bool = _row(
        kinds.SWITCH,
        "Whether it may make namespaces, as the sandbox of a headless browser does.",
        False,
        default="false",
        applies="restart",
    )


@dataclass(frozen=True)
class Limits:
    memory: str | None = _row(
        kinds.MEMORY,
        "What all processes together may use; above it the largest worker is killed and replaced.",
        None,
        default="none",
        applies="daemon-reload",
    )
    tasks: int | None = _row(
        kinds.number(confinement.MIN_TASKS, confinement.MAX_TASKS),
        "How many processes and threads there may be in all.",
        None,
        default="systemd's",
        applies="daemon-reload",
    )
    cpu: str | None = _row(
        kinds.CPU,
        'Processor time they may use: "200%" is two cores. workers = "auto" makes as many, rounded up.',
        None,
        default="none",
        applies="daemon-reload",
    )
    nofile: int | None = _row(
        kinds.number(confinement.MIN_NOFILE, confinement.MAX_NOFILE),
        "Files and connections one process may have open.",
        None,
        default="65536, and 524288 if it asks for them",
        applies="restart",
    )


@dataclass(frozen=True)
class Task:
    """`every` and `calendar` are never both there; with neither it runs on demand only."""

    call: str = _row(
        kinds.CALL,
        "The function that is called, without arguments, plain or async: each time in a process of its own, which has "
        "the application imported, and ends with it.",
        "",
        default="none: it must be given",
        only="app",
    )
    every: float | None = _row(
        kinds.seconds(0.1, 366 * 86400),
        "How much later it runs again, from start to start; first when the application begins to serve. A run that is "
        "due while another goes on is left out.",
        None,
        default="none",
        only="app",
    )
    calendar: str | None = _row(
        kinds.CALENDAR,
        'In place of every: when it runs, in the grammar of systemd.time(7), such as "Mon..Fri 04:00". systemd does '
        "it, by the timer cluster-task@APPLICATION:NAME.timer, and makes up for a run that was missed while the "
        "machine was off.",
        None,
        default="none",
        applies="daemon-reload",
        only="app",
    )
    publish: str | None = _row(
        kinds.TOPIC,
        "The key under which what the function returns is published to all workers (worker.value of Python); it is "
        "JSON then.",
        None,
        default="none",
        only="app",
    )
    timeout: float = _row(
        kinds.seconds(0.1, 30 * 86400),
        "How long a run may take; then it gets SIGTERM, and 5 s later SIGKILL.",
        3600.0,
        default='"1h"',
        only="app",
    )
    jitter: float = _row(
        kinds.seconds(0, 86400),
        "Each run begins up to so much later, by chance: where many would begin at once.",
        0.0,
        default='"0s"',
        only="app",
    )


@dataclass(frozen=True)
class Settings:
    """One application, every default filled in, "auto" replaced by what it stands for. Times are float seconds.

    Exactly one of `app` and `command` is set. `file` is None for an application without one (`clusterd run`);
    `profile` is the one laid over it, "" for none.
    """

    name: str
    file: str | None = None
    profile: str = ""
    app: str | None = _row(
        kinds.APP,
        'The ASGI or WSGI application: an object in a module, or with "()" what a function returns, whose '
        "arguments may be literals: \"pypiserver:app(root='/srv/packages')\".",
        None,
        default="none",
    )
    command: tuple[str, ...] | None = _row(
        kinds.COMMAND,
        "Any program that takes its sockets from systemd (LISTEN_FDS). No shell reads it.",
        None,
        default="none",
    )
    engine: Literal["auto", "uvicorn", "granian", "waitress"] = _row(
        kinds.choice("auto", "uvicorn", "granian", "waitress"),
        'The server in the worker. "auto": uvicorn for ASGI; for WSGI granian where the interpreter has it, else '
        "waitress.",
        "auto",
        default='"auto"',
        only="app",
    )
    ready: Literal["notify"] | float = _row(
        kinds.READY,
        "When a worker of a command is ready: as it says so (sd_notify), or after that time.",
        "notify",
        default='"notify"',
        only="command",
    )
    directory: str = _row(
        kinds.PATH,
        "Where the application lives and runs. It may be a symbolic link, which is followed at each "
        "reload. Not below /tmp or /var/tmp, which the service has its own of.",
        "/",
        default='"/srv/NAME"',
    )
    python: str | None = _row(
        kinds.PATH,
        "The interpreter of the application, such as that of its virtual environment. 3.10 or newer.",
        "/usr/bin/python3",
        default='"/usr/bin/python3"',
        only="app",
    )
    user: str | None = _row(
        kinds.USER,
        "The account it runs under; not root.",
        None,
        default="a dynamic user, cluster-NAME",
        applies="restart",
    )
    group: str | None = _row(kinds.GROUP, "The group it runs under.", None, default="the user's", applies="restart")
    listen: tuple[Address, ...] = _row(
        kinds.LISTEN,
        'Where it takes connections. Each is a port ("8000": all addresses, IPv6 and IPv4), '
        '"127.0.0.1:8000", "[::1]:8001", the path of a UNIX socket, or { path = "/run/hello.sock", '
        'mode = "0660", user = "...", group = "www-data" }. No other file may have an address that '
        "overlaps. A path in /run/clusterd/NAME is refused: what is there goes when the application stops.",
        (),
        default="none: it must be given",
        applies="socket restart",
    )
    slots: int = _row(
        kinds.number(1, MAX_SLOTS),
        "Listening sockets per TCP address, and so how many workers can have one of their own. "
        "Independent of workers, so that workers can change at a reload.",
        16,
        default="16, or the cores where there are more",
        applies="socket restart",
    )
    workers: int = _row(
        kinds.number(1, 1024, "auto"),
        'How many workers serve. "auto": one per core the service may use.',
        1,
        default='"auto"',
    )
    balance: Literal["random", "hash"] = _row(
        kinds.choice("auto", "random", "hash"),
        'How the kernel spreads TCP connections over the workers: "random", or "hash" by the client\'s '
        'address. "auto" is "random".',
        "random",
        default='"auto"',
    )
    unavailable: Literal["503", "wait"] = _row(
        kinds.choice("503", "wait"),
        'What becomes of clients while no worker can be started. "503": they are told so, with Retry-After; who does '
        'not speak HTTP is hung up on. "wait": they wait in the queue until one serves.',
        "503",
        default='"503"',
    )
    environment_file: str | None = _row(
        kinds.ENVIRONMENT_FILE,
        "A file of variables in the grammar of systemd's EnvironmentFile=; read by systemd, so that it "
        "may be root's alone.",
        None,
        default="none",
    )
    cache: str = _row(
        kinds.CACHE,
        'Where the workers keep what they share (worker.cache of Python). "embedded": in the runtime directory, '
        "64 MiB at most, until the service is stopped. Or a Redis, for which the application's interpreter needs the "
        'package redis: "redis://HOST:PORT/DB", "rediss://" with TLS, "unix:///PATH?db=DB". The URL of one with a '
        'password stands in environment-file or in a credential, under the name that is given here: "$REDIS_URL".',
        "embedded",
        default='"embedded"',
        only="app",
    )
    bus: str | None = _row(
        kinds.BUS,
        "A Redis that carries what workers broadcast, and their retained values, to the same application on other "
        'hosts: a URL as for cache, or "$NAME". The daemon needs Debian\'s python3-redis.',
        None,
        default="none",
    )
    http: Http = field(default_factory=Http)
    tls: Tls = field(default_factory=Tls)
    reload: Reload = field(default_factory=Reload)
    stop: Stop = field(default_factory=Stop)
    restart: Restart = field(default_factory=Restart)
    health: Health = field(default_factory=Health)
    recycle: Recycle = field(default_factory=Recycle)
    env: Mapping[str, str] = _row(
        kinds.ENVIRONMENT,
        "Variables for the workers, stronger than environment-file. Never shown by check or status.",
        make=dict,
        default="none",
    )
    credentials: Mapping[str, str] = _row(
        kinds.CREDENTIALS,
        "Secrets in files that only root can read: systemd reads each at a start, and the application finds it as "
        "NAME in the directory CREDENTIALS_DIRECTORY. One ending in .cred, or in a directory credstore.encrypted, is "
        "decrypted (systemd-creds(1)).",
        make=dict,
        default="none",
        applies="restart",
    )
    sandbox: Sandbox = field(default_factory=Sandbox)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    task: Mapping[str, Task] = field(default_factory=dict, metadata={"each": Task})


ANY = "NAME"
"""Stands in a row's key for a name that the file gives: `task.NAME.every`."""


def _rows(cls: type, prefix: str = "") -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for each in fields(cls):
        key = prefix + key_of(each)
        if "setting" in each.metadata:
            row: Setting = each.metadata["setting"]
            found[key] = Setting(row.kind, row.doc, row.default, row.applies, row.only, key)
        elif "each" in each.metadata:
            found |= _rows(each.metadata["each"], f"{key}.{ANY}.")
        elif each.default_factory is not MISSING:
            made: Any = each.default_factory  # the class of a table
            found |= _rows(made, key + ".")
    return found


def key_of(each: Field[Any]) -> str:
    return each.name.replace("_", "-")


TABLE: Mapping[str, Setting] = _rows(Settings)
"""Every setting by its key, in the order of the manual. Those of NAMED are one row; a task's have ANY for its name."""

TOP: frozenset[str] = frozenset(
    key for key, row in TABLE.items() if "." not in key and key not in ("env", "credentials")
)
"""Keys that stand above all tables."""

NAMED: Mapping[str, str] = {"env": "a string", "credentials": "an absolute path"}
"""Tables whose keys are names: what each value is."""

TYPES: Mapping[str, type] = {
    name: hint for name, hint in get_type_hints(Settings).items() if isinstance(hint, type) and is_dataclass(hint)
}
"""The tables of the file: "http" -> Http and so on."""

EACH: Mapping[str, type] = {each.name: each.metadata["each"] for each in fields(Settings) if "each" in each.metadata}
"""Tables of tables with names: "task" -> Task."""


def row_of(key: str) -> Setting:
    """The row of `key`, in which names are as the file has them: `task.users.every`."""
    table, _, rest = key.partition(".")
    return TABLE[f"{table}.{ANY}.{rest.rpartition('.')[2]}" if table in EACH else key]


LATER: Mapping[str, str] = {
    "sticky": 'not in this release: balance = "hash" keeps a client\'s address on one worker',
}
"""Keys of the design that are not built yet, refused in words rather than as unknown."""

ENGINES: tuple[str, ...] = ("uvicorn", "granian", "waitress")
"""Those that `engine` can name. What each can do: worker/abilities.py."""
