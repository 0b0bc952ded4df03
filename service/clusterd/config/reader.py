"""From the parsed tables of one file to Settings: each value by its row of TABLE, then what only several get wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from clusterd.config.confinement import makes_code
from clusterd.config.cores import cores, default_slots, rounded_up
from clusterd.config.homes import at_home
from clusterd.config.kinds import Wrong, show, type_name
from clusterd.config.names import TASK, is_task
from clusterd.config.places import SYSTEM, Place
from clusterd.config.ports import first_unprivileged
from clusterd.config.problem import Invalid, Problem
from clusterd.config.profiles import FIXED, NAME, NONE, is_profile, laid, laid_over
from clusterd.config.settings import ANY, EACH, ENGINES, LATER, TABLE, TOP, TYPES, Http, Settings, Task, key_of, row_of
from clusterd.config.values import percent
from clusterd.worker import abilities

MAX_DESCRIPTORS = 1024
"""slots x TCP addresses + UNIX sockets: half of the service's FileDescriptorStoreMax=, see units/cluster@.service."""
BELOW_ENV = "below [env], where it is a variable: a key belongs above all tables"
MAX_PROFILES = 32
MAX_TASKS = 64


def read(
    name: str,
    file: str | None,
    table: Mapping[str, Any],
    place: Place = SYSTEM,
    profile: str = "",
    over: Mapping[str, Any] | None = None,
) -> Settings:
    """The Settings of `table` with `profile` laid over it, "" being none. `file` is None where there is no file.

    `over` is laid over both: what a command line says besides.
    Raises Invalid with all problems of the file and of each of its profiles: what is chosen tomorrow is checked today.
    With `over`, of what is chosen now: options are of one run, and may complete a file.
    """

    def reading(merged: Mapping[str, Any]) -> _Reader:
        reader = _Reader(file or name)
        reader.table("", merged)
        reader.together()
        reader.lasting(name, place)
        if place.user:
            reader.unprivileged()
            reader.values.setdefault("directory", f"{place.home.rstrip('/')}/{name}")
        return reader

    plain = reading(laid_over(table, ""))
    whole = _Profiles(file or name, table, plain, reading)
    chosen = whole.readers.get(profile) if profile else plain
    problems = [*plain.problems, *whole.problems]
    if chosen is None:
        problems.append(whole.missing(profile))
    elif over:
        chosen = reading(laid(laid_over(table, profile), over))
        problems = chosen.problems
    if chosen is None or problems:
        raise Invalid(problems)
    return chosen.build(name, file, profile)


class _Profiles:
    """Reads the file once more for each profile; what is wrong then and was not without it, is the profile's."""

    def __init__(
        self, file: str, table: Mapping[str, Any], plain: _Reader, reading: Callable[[Mapping[str, Any]], _Reader]
    ) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.readers: dict[str, _Reader] = {}
        every = table.get("profile", {})
        if not isinstance(every, dict):
            self.wrong("profile", show(every), "tables: [profile.NAME]")
            return
        if len(every) > MAX_PROFILES:
            self.wrong("profile", f"{len(every)} profiles", f"at most {MAX_PROFILES}")
        for name, over in list(every.items())[:MAX_PROFILES]:
            key = f"profile.{name}"
            if not is_profile(name):
                self.wrong(key, "that name", f"{NAME}, and not '{NONE}', which stands for the file without a profile")
            elif not isinstance(over, dict):
                self.wrong(key, show(over), f"a table: [{key}]")
            else:
                self.fixed(key, over)
                reader = self.readers[name] = reading(laid_over(table, name))
                own = [problem for problem in reader.problems if problem not in plain.problems]
                self.problems += [replace(problem, key=f"{key}.{problem.key}") for problem in own]

    def fixed(self, key: str, over: Mapping[str, Any]) -> None:
        for fixed in FIXED:
            if fixed in over:
                hint = "the sockets are the application's, whatever profile it runs with: give it above all tables"
                self.wrong(
                    f"{key}.{fixed}", "a key that no profile has", "another key", hint if fixed != "profile" else ""
                )

    def missing(self, profile: str) -> Problem:
        near = difflib.get_close_matches(profile, self.readers, 1)
        known = ", ".join(sorted(self.readers))
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {known}" if known else "it has none"
        found = f"'{profile}' chosen, which the file does not have"
        return Problem(self.file, "profile", found, f"a profile of it, or '{NONE}'", hint)

    def wrong(self, key: str, found: str, expected: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, key, found, expected, hint))


class _Reader:
    """Goes through one file's tables, and collects values by key and problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[str, Any] = {}
        self.written: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.tasks: list[str] = []

    def wrong(self, key: str, found: str, expected: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, key, found, expected, hint))

    def table(self, prefix: str, table: Mapping[str, Any]) -> None:
        for name, value in table.items():
            key = prefix + name
            if key in TABLE:
                self.value(key, value)
            elif key in LATER:
                self.wrong(key, "a key of a later release", "none", LATER[key])
            elif key in TYPES and isinstance(value, dict):
                self.table(key + ".", value)
            elif key in EACH and isinstance(value, dict):
                self.each(key, value)
            elif key in TYPES or key in EACH:
                self.wrong(key, show(value), f"a table: [{key}]" if key in TYPES else f"tables: [{key}.{ANY}]")
            else:
                self.unknown(prefix, name)

    def each(self, key: str, tables: Mapping[str, Any]) -> None:
        """[task.NAME]: the same rows for every name."""
        if len(tables) > MAX_TASKS:
            self.wrong(key, f"{len(tables)} tasks", f"at most {MAX_TASKS}")
        rows = {key_of(f) for f in fields(EACH[key])}
        nameless = [name for name in tables if name in rows and not isinstance(tables[name], dict)]
        if nameless:
            hint = f"a task has a name, and its keys stand below it: [{key}.users]"
            self.wrong(f"{key}.{nameless[0]}", show(tables[nameless[0]]), f"a table: [{key}.{ANY}]", hint)
        for name in [name for name in tables if name not in nameless][:MAX_TASKS]:
            table, prefix = tables[name], f"{key}.{name}"
            if not is_task(name):
                self.wrong(prefix, "that name", f"{TASK}")
            elif not isinstance(table, dict):
                self.wrong(prefix, show(table), f"a table: [{prefix}]")
            else:
                self.tasks.append(name)
                for below, value in table.items():
                    if below in rows:
                        self.value(f"{prefix}.{below}", value)
                    else:
                        self.unknown(f"{prefix}.", below)

    def value(self, key: str, value: Any) -> None:
        kind = row_of(key).kind
        self.written[key] = value
        try:
            self.values[key] = kind.parse(value)
        except Wrong as e:
            for each in e.parts or [e]:
                found = each.found or (type_name(value) if kind.secret else show(value))
                name = each.key[1:]
                hint = f"'{name}' stands {BELOW_ENV}" if key == "env" and name in TOP else each.hint
                self.wrong(key + each.key, found, each.expected or kind.expected, hint)

    def unknown(self, prefix: str, name: str) -> None:
        table = prefix.partition(".")[0]
        general = f"{table}.{ANY}." if table in EACH else prefix
        names = [k.removeprefix(general).split(".")[0] for k in TABLE if k.startswith(general)]
        near = difflib.get_close_matches(name.replace("_", "-").lower(), names, 1, 0.7)
        elsewhere = [key for key in TABLE if key.rpartition(".")[2] == name.replace("_", "-")]
        hint = f"did you mean '{prefix}{near[0]}'?" if near else ""
        if not near and elsewhere:
            hint = f"did you mean {' or '.join(repr(key) for key in elsewhere)}?"
        where = f"a key of [{prefix[:-1]}]" if prefix else "a key of cluster.toml(5)"
        self.wrong(prefix + name, "an unknown key", where, hint)

    def together(self) -> None:
        """What only several keys together can get wrong."""
        values, bad = self.values, {p.key.split("[")[0] for p in self.problems}
        sorts = {"app", "command"} & self.written.keys()
        if len(sorts) == 2:
            self.wrong("command", "both 'app' and 'command'", "one of them", "an application is one or the other")
        elif not sorts:
            hint = self.below_env("app", "command") or 'for example app = "hello:app"'
            self.wrong("app", "neither 'app' nor 'command'", "one of them", hint)
        else:
            (sort,) = sorts  # as written: what is wrong with its value makes no other key wrong
            for key in values:
                if not key.startswith("task.") and TABLE[key].only not in ("both", sort):
                    self.only(key, sort)
            if sort == "command" and self.tasks:
                hint = "a task is a function of the application: for a program write a systemd.timer(5) of your own"
                self.wrong(f"task.{self.tasks[0]}", "a task of a 'command'", "an 'app' for it", hint)
        if "listen" not in values.keys() | bad:
            hint = self.below_env("listen") or 'for example listen = "127.0.0.1:8000"'
            self.wrong("listen", "nothing", "an address", hint)
        self.engine()
        self.tls()
        self.listening()
        self.sandbox()
        self.times()
        self.recycling()
        self.scheduled(bad)

    def below_env(self, *keys: str) -> str:
        """The hint for keys that are missing because they stand in [env]; "" where they do not."""
        env = self.written.get("env")
        return next((f"'{key}' stands {BELOW_ENV}" for key in keys if isinstance(env, dict) and key in env), "")

    def scheduled(self, bad: Collection[str]) -> None:
        for name in self.tasks:
            key = f"task.{name}"
            if f"{key}.call" not in self.values.keys() | bad:
                self.wrong(f"{key}.call", "nothing", "a function", 'for example call = "hello:count_users"')
            if f"{key}.every" in self.values and f"{key}.calendar" in self.values:
                hint = "without either it runs on demand: clusterd task"
                self.wrong(f"{key}.calendar", "both 'every' and 'calendar'", "one of them", hint)

    def only(self, key: str, sort: str) -> None:
        other = "command" if sort == "app" else "app"
        hint = "the program of a command serves HTTP itself: configure it there" if sort == "command" else ""
        if key == "python":
            hint = "name the interpreter in the command"
        self.wrong(key, f"a key that only '{other}' has", f"a key that '{sort}' has", hint)

    def engine(self) -> None:
        """What the engine cannot do; with "auto", what none can: the rest is seen when the application is known."""
        engine = self.values.get("engine", "auto")
        asked = self.asked()
        for each in abilities.objections(engine, asked):
            shown = show(self.written[each.key]) if each.key in self.written else "[tls]"
            self.wrong(each.key, f"{shown}, which {engine} cannot do: {each.why}", f"what {engine} can", each.instead)
        for key in asked if engine == "auto" else ():
            if not abilities.able(ENGINES, key, asked):
                first = next(o for o in abilities.objections(ENGINES[0], asked) if o.key == key)
                found = f"{show(self.written.get(key))}, which no engine can do: {first.why}"
                self.wrong(key, found, "what an engine can", first.instead)

    def asked(self) -> dict[str, Any]:
        """What is asked of an engine beyond the defaults; worker/boot.py has the same of its message."""
        defaults = {f"http.{key_of(f)}": f.default for f in fields(Http)}
        found = {key: self.values[key] for key in defaults if self.values.get(key, defaults[key]) != defaults[key]}
        if self.values.get("log.access"):
            found["log.access"] = True
        if "tls.certificate" in self.values:
            found["tls"] = True
        return found

    def tls(self) -> None:
        both = {"tls.certificate", "tls.key"}
        here = both & self.values.keys()
        if here and len(here | {p.key for p in self.problems} & both) == 1:
            (missing,) = both - here
            self.wrong(missing, "nothing", "both 'certificate' and 'key'", "they may be in one file: name it twice")

    def listening(self) -> None:
        listen = self.values.get("listen", ())
        tcp = sum(a.kind == "tcp" for a in listen)
        slots = self.values.get("slots", default_slots())
        total = slots * tcp + len(listen) - tcp
        if total > MAX_DESCRIPTORS:
            hint = "fewer slots or fewer addresses"
            self.wrong("slots", f"{slots} slots for {tcp} addresses", f"at most {MAX_DESCRIPTORS} sockets", hint)
        if listen and not tcp and self.values.get("balance") == "hash":
            hint = "all workers share a UNIX socket, and the first that is free takes a connection"
            self.wrong("balance", '"hash" with UNIX sockets only', '"auto"', hint)

    def lasting(self, name: str, place: Place) -> None:
        """RuntimeDirectory= goes at each stop, and the socket unit would listen on where nobody connects any more."""
        instead = f"{place.runtime.rpartition('/')[0]}/{name}.sock"
        for address in self.values.get("listen", ()):
            if address.kind == "unix" and place.owns(address.path):
                hint = "directories there are removed with all that is in them when their application stops"
                expected = f"a path that is not below '{place.runtime}'"
                self.wrong("listen", f"'{address.path}'", expected, f'{hint}: "{instead}"')

    def sandbox(self) -> None:
        """What [sandbox] closes that the application is known to need."""
        v = self.values
        program = v["command"][0] if "command" in v else v.get("python", "")
        if v.get("sandbox.jit") is False and makes_code(v.get("command") or [program]):
            hint = (
                "leave it out" if program.rpartition("/")[2] != "node" else 'leave it out, or give "--jitless" to node'
            )
            self.wrong("sandbox.jit", f"false, and '{program}', which makes code at run time", "true", hint)
        for key, path in (("directory", v.get("directory", "")), ("python" if "app" in v else "command", program)):
            if v.get("sandbox.home") == "hidden" and at_home([path]):
                self.wrong("sandbox.home", f"\"hidden\", and {key} is '{path}'", '"read-only"', "or leave it out")
        at = next((path for path in v.get("sandbox.write", ()) if at_home([path])), None)
        if at and v.get("sandbox.home") == "hidden":
            self.wrong("sandbox.home", f"\"hidden\", and write has '{at}'", '"read-only"', "write opens what it names")

    def times(self) -> None:
        v = self.values
        delay, longest = v.get("restart.delay", 0.1), v.get("restart.max-delay", 30.0)
        if delay > longest:
            self.wrong("restart.max-delay", f"{longest:g} s", f"at least restart.delay, {delay:g} s")
        drain = v.get("reload.drain-timeout", 30.0)
        if v.get("reload.linger", 0.0) > drain:
            hint = "a worker is killed at drain-timeout, lingering or not"
            self.wrong("reload.linger", f"{v['reload.linger']:g} s", f"at most reload.drain-timeout, {drain:g} s", hint)

    def recycling(self) -> None:
        v = self.values
        if "recycle.max-requests-jitter" in v and "recycle.max-requests" not in v:
            jitter = str(v["recycle.max-requests-jitter"])
            self.wrong("recycle.max-requests-jitter", jitter, "recycle.max-requests beside it", "it is added to that")

    def unprivileged(self) -> None:
        """What a user's own systemd cannot do."""
        accounts: dict[str, str] = {key: show(self.values[key]) for key in ("user", "group") if key in self.values}
        if any(a.user or a.group for a in self.values.get("listen", ())):
            accounts["listen"] = "an owner for the socket"
        for key, found in accounts.items():
            hint = "only the system's systemd changes accounts: leave it out, or put the file into /etc/clusterd"
            self.wrong(key, found, "your own account, which needs no key", hint)
        for key in self.values:
            if key.startswith("sandbox."):
                hint = "a user's systemd confines nothing: leave it out, or put the file into /etc/clusterd"
                self.wrong(key, show(self.written.get(key)), "no [sandbox] here", hint)
        lowest = first_unprivileged()
        for address in self.values.get("listen", ()):
            if address.kind == "tcp" and address.port < lowest:
                hint = "lower ones are the system's: put a proxy there, or the file into /etc/clusterd"
                self.wrong("listen", f"port {address.port}", f"a port from {lowest} up", hint)

    def build(self, name: str, file: str | None, profile: str) -> Settings:
        v = self.values
        v.setdefault("directory", f"/srv/{name}")
        v.setdefault("slots", default_slots())
        if v.get("workers", "auto") == "auto":
            # the file's own quota too: the unit has it after the next daemon-reload only, and `run` has no unit
            v["workers"] = min(cores(), rounded_up(percent(v.get("limits.cpu", "100000%"), 100_000) / 100))
        if v.get("balance") == "auto":
            v["balance"] = "random"
        if v.get("reload.surge") == "all":
            v["reload.surge"] = None
        if "command" in v:
            v["python"] = None
            v.setdefault("health.watchdog", None)  # few programs say WATCHDOG=1
        if "recycle.max-requests" in v:
            v.setdefault("recycle.max-requests-jitter", v["recycle.max-requests"] // 10)
        keep_alive, drain = v.get("http.keep-alive", 5.0), v.get("reload.drain-timeout", 30.0)
        v.setdefault("reload.linger", min(keep_alive, drain))
        made: dict[str, Any] = {
            table: cls(**{f.name: v[key] for f in fields(cls) if (key := f"{table}.{key_of(f)}") in v})
            for table, cls in TYPES.items()
        }
        made["task"] = {
            name: Task(**{f.name: v[key] for f in fields(Task) if (key := f"task.{name}.{key_of(f)}") in v})
            for name in self.tasks
        }
        made |= {f.name: v[key_of(f)] for f in fields(Settings) if key_of(f) in v}
        return Settings(name=name, file=file, profile=profile, **made)
