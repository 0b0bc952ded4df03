"""What a reload meets and what it brings into effect: return, rollback, try, undo, links, settings, interruptions."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack

import pytest

from clusterd.shell import messages
from tests.patience import HANG
from tests.systemd import load
from tests.systemd.apps import NODE
from tests.systemd.clients import Held, WebSocket
from tests.systemd.harness.instance import Instance
from tests.systemd.releases import GATED, LOCKING, MORTAL, windowed

TABLES = '[reload]\nsoak = "100ms"\nlinger = "30s"\ndrain-timeout = "60s"\n'


def configure(instance: Instance, top: str = "", tables: str = TABLES, *, directory: str = "@DIRECTORY@") -> None:
    instance.configure(
        f'app = "hello:app"\ndirectory = "{directory}"\nlisten = ["127.0.0.1:@PORT@"]\nworkers = 2\n{top}\n{tables}',
        reload=False,
    )


def start(instance: Instance, top: str = "", tables: str = TABLES) -> dict[int, int]:
    """Serve the example as release "one"; its workers."""
    instance.write("hello.py", windowed("one"))
    configure(instance, top, tables)
    instance.machine.systemctl("daemon-reload")
    instance.start()
    return instance.workers()


def greetings(instance: Instance) -> set[str]:
    return {instance.get()[1].split()[0] for _ in range(16)}


def in_background(instance: Instance, *command: str) -> subprocess.Popen[str]:
    """`clusterd reload NAME`, or another command, without waiting; under way when this returns."""
    argv = command or ("clusterd", "reload", instance.name)
    process = instance.machine.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    instance.machine.wait_for("the reload to begin", lambda: instance.status()["rollout"])
    return process


def records(instance: Instance, message: messages.Message) -> list[dict[str, str]]:
    return instance.machine.journal(f"MESSAGE_ID={message.id}", unit=instance.service)


# a generation that does not live


@pytest.mark.once
def test_dying_after_the_commit(instance: Instance) -> None:
    """A generation whose workers keep dying is returned from memory, and that is told as loudly as it deserves."""
    start(instance)
    instance.write("hello.py", windowed("two", MORTAL))
    instance.reload()
    assert greetings(instance) == {"two"}
    instance.write("die", "")
    status = instance.machine.wait_for(
        "the return", lambda: (s := instance.status())["generation"] == 1 and s["state"] == "serving" and s
    )
    assert greetings(instance) == {"one"}
    assert (status["receipt"]["number"], status["receipt"]["outcome"]) == (2, "returned")
    assert re.search(r"2/2 workers, generation 1.*; reload #2: returned: ", instance.show("StatusText"))
    assert instance.show("ActiveState") == "active"
    (told,) = records(instance, messages.RETURNED)
    assert told["PRIORITY"] == "2"
    assert "returned to generation 1" in told["MESSAGE"] and "status 7" in told["MESSAGE"]


@pytest.mark.once
def test_dying_while_the_reload_runs(instance: Instance) -> None:
    """Its caller, when it still waits (here for the drain of the first batch), is told by exit status 6."""
    start(instance, tables=TABLES + "surge = 1\n")
    instance.write("hello.py", windowed("two", MORTAL))
    with ExitStack() as stack:
        held = [stack.enter_context(Held(instance))]
        while {each.pid for each in held} != set(instance.workers().values()):
            held.append(stack.enter_context(Held(instance)))
        reload = in_background(instance)
        instance.machine.wait_for("the commit", lambda: (instance.status()["rollout"] or {})["phase"] == "committed")
        instance.write("die", "")
        said = reload.communicate()[1]
        assert reload.returncode == 6, said
        assert "the previous one serves again" in said
        instance.write("release", "")
        assert {each.rest() for each in held} == {("done", 0)}
    instance.machine.wait_for("both workers", lambda: len(instance.workers()) == 2)
    assert greetings(instance) == {"one"}


@pytest.mark.once
def test_surge_is_undone(instance: Instance) -> None:
    """One at a time, and the second new worker fails: the first is taken back too, with nothing lost."""
    workers = start(instance, tables=TABLES + "surge = 1\n")
    instance.write("lock", "")
    instance.write("hello.py", windowed("two", LOCKING))
    with load.everything(instance.machine, instance.port) as asked:
        done = instance.clusterd("reload", check=False)
        assert (done.returncode, "another has the lock" in done.stderr) == (1, True), done
        after = instance.workers()
        assert greetings(instance) == {"one"}
    asked.assert_nothing_lost()
    assert len(after) == 2 and set(after.values()) & set(workers.values())
    assert "#2: refused: undone: worker" in instance.show("StatusText")
    (told,) = records(instance, messages.RELOAD_UNDONE)
    assert "another has the lock" in told["MESSAGE"]
    instance.write("hello.py", windowed("three"))
    instance.reload()
    assert greetings(instance) == {"three"}


# by hand


@pytest.mark.once
def test_rollback(instance: Instance) -> None:
    """The generation before comes back from memory, whatever is on disk; and a second rollback takes that back."""
    start(instance)
    assert "no previous generation" in instance.clusterd("rollback", check=False).stderr
    instance.write("hello.py", windowed("two"))
    instance.reload()
    instance.write("hello.py", "no python at all")
    with load.everything(instance.machine, instance.port) as asked:
        assert instance.clusterd("rollback").returncode == 0
        assert greetings(instance) == {"one"}
        assert instance.clusterd("rollback").returncode == 0
        assert greetings(instance) == {"two"}
    asked.assert_nothing_lost()
    assert len(records(instance, messages.ROLLBACK_DONE)) == 2


@pytest.mark.once
def test_try(instance: Instance) -> None:
    """The code on disk is booted and checked, or refused with the reason; what runs is not touched, nothing stays."""
    workers = start(instance, tables=TABLES + '[health]\npath = "/healthz"\n')
    processes = instance.machine.wait_for("the twin", lambda: twinned(instance) and processes_of(instance))
    instance.write("hello.py", windowed("two"))
    done = instance.clusterd("try")
    assert "boots and is ready" in done.stdout
    instance.write("hello.py", windowed("two", "\nasync def answer(scope):\n    return 503, 'no'\n"))
    done = instance.clusterd("try", check=False)
    assert done.returncode == 1 and "GET /healthz answered 503" in done.stderr
    assert instance.workers() == workers and greetings(instance) == {"one"}
    instance.machine.wait_for("its processes to end", lambda: processes_of(instance) == processes)
    assert instance.status()["generation"] == 1
    assert "refused" not in instance.show("StatusText")


def twinned(instance: Instance) -> bool:
    return all(g["twin"] for g in instance.status()["generations"])


def processes_of(instance: Instance) -> list[int]:
    return instance.machine.processes(instance.service)


# what acts at a reload


def flip(instance: Instance, release: str) -> None:
    instance.machine.sh(f"cd {instance.directory} && ln -s releases/{release} new && mv -T new current")


@pytest.mark.once
def test_flipped_link(instance: Instance) -> None:
    """`directory` is resolved at each reload: a flip alone changes nothing, not even for a worker that dies."""
    for release in ("one", "two"):
        instance.write(f"releases/{release}/hello.py", windowed(release))
    flip(instance, "one")
    configure(instance, directory="@DIRECTORY@/current")
    instance.machine.systemctl("daemon-reload")
    instance.start()
    flip(instance, "two")
    die_and_come_back(instance)
    assert {instance.get("/cwd")[1] for _ in range(16)} == {f"{instance.directory}/releases/one"}
    assert greetings(instance) == {"one"}
    instance.reload()
    assert {instance.get("/cwd")[1] for _ in range(16)} == {f"{instance.directory}/releases/two"}
    assert greetings(instance) == {"two"}


@pytest.mark.once
def test_flipped_link_of_a_command(instance: Instance) -> None:
    """With releases behind a link a `command` too comes back as the code that served, after a refused reload."""
    instance.write("releases/one/server.js", NODE.source("one"))
    instance.write("releases/two/server.js", "function (;")
    flip(instance, "one")
    instance.configure(
        f'{NODE.toml}\ndirectory = "@DIRECTORY@/current"\nlisten = ["127.0.0.1:@PORT@"]\nworkers = 2\n{TABLES}'
    )
    instance.start()
    flip(instance, "two")
    assert instance.reload(check=False).returncode == 1
    die_and_come_back(instance)
    assert greetings(instance) == {"one"}


def die_and_come_back(instance: Instance) -> None:
    before = instance.workers()
    killed = next(iter(before.values()))
    instance.machine.run(["kill", "-KILL", str(killed)])
    instance.machine.wait_for("a successor", lambda: len(now := instance.workers()) == 2 and killed not in now.values())


def test_settings_act(instance: Instance) -> None:
    """Variables, the secret file, the number of workers and the health path act at a reload, and only then."""
    file = f"{instance.directory}/secret.env"
    instance.machine.write(file, "SECRET=first\nGONE=soon\n", mode="0600")
    start(instance, top=f'environment-file = "{file}"', tables=TABLES + '[env]\nCOLOUR = "red"\n')
    assert {instance.get(f"/env?{name}")[1] for name in ("SECRET", "COLOUR", "GONE")} == {"first", "red", "soon"}
    instance.machine.write(file, "SECRET=second\n", mode="0600")
    tables = TABLES + '[env]\nCOLOUR = "blue"\n'
    configure(instance, f'environment-file = "{file}"', tables + '[health]\npath = "/nowhere"\n')
    done = instance.clusterd("reload", check=False)
    assert done.returncode == 1 and "GET /nowhere answered 404" in done.stderr
    assert instance.get("/env?SECRET")[1] == "first" and instance.get("/env?COLOUR")[1] == "red"
    # A signal brings no environment: it is that of what serves, not that of what was refused.
    configure(instance, f'environment-file = "{file}"', tables)
    before, generation = instance.workers(), instance.status()["generation"]
    instance.machine.run(["kill", "-HUP", str(instance.status()["master"]["pid"])])
    instance.machine.wait_for(
        "the reload", lambda: not (now := instance.status())["rollout"] and now["generation"] > generation
    )
    assert not set(instance.workers().values()) & set(before.values())
    assert instance.get("/env?SECRET")[1] == "first" and instance.get("/env?COLOUR")[1] == "blue"
    configure(instance, f'environment-file = "{file}"\n', tables.replace("2\n", "3\n"))
    instance.machine.sh(f"sed -i 's/^workers = 2/workers = 3/' {instance.file}")
    instance.reload()
    assert len(instance.workers()) == 3
    assert [instance.get(f"/env?{name}")[1] for name in ("SECRET", "COLOUR", "GONE")] == ["second", "blue", "unset"]
    instance.machine.write(file, "SECRET=third\n", mode="0600")
    instance.machine.sh(f"sed -i 's/^workers = 3/workers = 1/' {instance.file}")
    assert instance.clusterd("reload").returncode == 0
    instance.machine.wait_for("one worker", lambda: len(instance.workers()) == 1)
    assert instance.get("/env?SECRET")[1] == "third"


@pytest.mark.once
def test_what_a_reload_cannot_do(instance: Instance) -> None:
    """A changed address is refused with the command that does it, a broken file with every problem; nothing changes."""
    workers = start(instance)
    instance.machine.sh(f"sed -i 's/^listen = .*/listen = [\"127.0.0.1:9\"]/' {instance.file}")
    done = instance.clusterd("reload", check=False)
    assert done.returncode == 1 and f"clusterd stop {instance.name} && clusterd start {instance.name}" in done.stderr
    assert "listen" in done.stderr and "127.0.0.1:9" in done.stderr
    assert instance.reload(check=False).returncode == 1
    assert "listen" in instance.show("StatusText")
    configure(instance, top='wrokers = 3\npython = 4\nbalance = "wild"')
    done = instance.clusterd("reload", check=False)
    assert done.returncode == 2
    for word in ("wrokers", "python", "wild", "did you mean 'workers'", "3 problems"):
        assert word in done.stderr, done.stderr
    assert instance.reload(check=False).returncode == 1
    assert instance.show("ActiveState") == "active"
    assert instance.workers() == workers and greetings(instance) == {"one"}
    assert len(records(instance, messages.CONFIGURATION_REFUSED)) == 4


# clients


@pytest.mark.once
def test_slow_import(instance: Instance) -> None:
    """An import is done once for all workers, and however long it takes every client is answered before its end."""
    start(instance)
    instance.write("hello.py", windowed("two", GATED))
    with load.probe(instance.machine, instance.port) as asked:
        reload = in_background(instance)
        instance.machine.wait_for("the import", lambda: "imported" in instance.messages())
        assert greetings(instance) == {"one"}
        instance.write("go", "")
        assert reload.wait(HANG) == 0
    assert asked.requests and not asked.failures
    assert greetings(instance) == {"two"}
    lines = instance.machine.journal(unit=instance.service)
    assert [r["SYSLOG_IDENTIFIER"] for r in lines if r["MESSAGE"] == "imported"] == [f"{instance.name}/zygote"]


def test_drain(instance: Instance) -> None:
    """A reload answers what is in flight; after linger it closes WebSockets with 1012; its receipt counts both."""
    start(instance, tables=TABLES.replace("30s", "500ms"))
    instance.write("hello.py", windowed("two"))
    with Held(instance) as held, WebSocket(instance) as websocket:
        instance.reload()
        assert greetings(instance) == {"two"}
        committed = records(instance, messages.RELOAD_COMMITTED)[-1]
        code, at = websocket.closed()
        assert code == 1012
        assert at - int(committed["_SOURCE_REALTIME_TIMESTAMP"]) / 1e6 >= 0.45  # it is told when it has been ordered
        assert held.pid in {w["pid"] for w in instance.status()["workers"] if w["state"] == "draining"}
        instance.write("release", "")
        assert held.rest() == ("done", 0)
    text = receipt(instance)
    assert re.fullmatch(r"#2: 2/2 in \d+\.\d s, 0 reset, 1 WebSockets? closed 1012, longest queue wait \d+ ms", text), (
        text
    )


@pytest.mark.once
def test_drain_has_an_end(instance: Instance) -> None:
    """What is not finished at drain-timeout is cut, and the receipt says so."""
    start(instance, tables=TABLES.replace("60s", "1s").replace("30s", "500ms"))
    with Held(instance) as held:
        instance.reload()
        text, status = held.rest()
        assert (text, status) == ("", 18)
    # One that does not run for a second is killed before it can count what it cuts, be that the other.
    text = receipt(instance)
    killed = records(instance, messages.DRAIN_CUT_OFF)
    possible = ("1 reset", "resets not known", "at least 1 reset") if killed else ("1 reset",)
    assert any(f", {resets}, 0 WebSockets closed 1012, " in text for resets in possible), text


def receipt(instance: Instance) -> str:
    """The complete one: it is told when the old workers are gone."""
    found = instance.machine.wait_for("the receipt", lambda: (r := instance.status()["receipt"]) and r["drained"] and r)
    text = str(found["text"])
    assert any(text in r["MESSAGE"] for r in records(instance, messages.RELOAD_RECEIPT))
    return text


# interruptions


@pytest.mark.once
def test_superseded(instance: Instance) -> None:
    """A second reload takes the place of the first, whose caller is told so by exit status 3."""
    start(instance)
    instance.write("hello.py", windowed("two", GATED))
    first = in_background(instance)
    instance.machine.wait_for("the first import", lambda: "imported" in instance.messages())
    instance.write("hello.py", windowed("three"))
    instance.reload()
    assert first.communicate()[1].count("superseded by #3") == 1
    assert first.returncode == 3
    assert greetings(instance) == {"three"}
    assert [r["CLUSTERD_GENERATION"] for r in records(instance, messages.RELOAD_SUPERSEDED)] == ["2"]


@pytest.mark.parametrize("by", ["clusterd", pytest.param("systemctl", marks=pytest.mark.proof)])
def test_stop_during_a_reload(instance: Instance, by: str) -> None:
    """A stop wins over a reload, and drains: what is in flight is answered, the reload fails, nothing is left."""
    start(instance, tables=TABLES + '[stop]\ndrain-timeout = "60s"\n')
    instance.write("hello.py", windowed("two", GATED))
    command = ("systemctl", "reload", instance.service) if by == "systemctl" else ("clusterd", "reload", instance.name)
    with Held(instance) as held:
        reload = in_background(instance, *command)
        stop = instance.machine.popen(["systemctl", "stop", instance.service, instance.socket])
        instance.machine.wait_for("the drain", lambda: instance.status()["state"] == "stopping")
        instance.write("release", "")
        assert held.rest() == ("done", 0)
    assert stop.wait(HANG) == 0
    reload.communicate()
    assert reload.returncode == (7 if by == "clusterd" else 1)
    assert instance.show("ActiveState") == "inactive" and instance.show("Result") == "success"
    assert processes_of(instance) == []


@pytest.mark.once
def test_the_client_is_killed(instance: Instance) -> None:
    """A reload goes on without whoever asked for it."""
    workers = start(instance)
    instance.write("hello.py", windowed("two", GATED))
    reload = in_background(instance)
    instance.machine.run(["pkill", "-KILL", "-f", f"clusterd reload {instance.name}$"])
    reload.communicate()
    assert instance.status()["rollout"]["phase"] == "preparing"
    instance.write("go", "")
    instance.machine.wait_for(
        "the reload's end", lambda: (now := instance.status())["generation"] == 2 and not now["rollout"]
    )
    assert greetings(instance) == {"two"} and not set(instance.workers().values()) & set(workers.values())
