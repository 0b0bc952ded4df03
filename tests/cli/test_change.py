from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd.cli import change, control, succession
from clusterd.cli.change import without_own
from tests.patience import HANG

from .conftest import Site, done, error, progress


def test_reload(site: Site) -> None:
    """A reload streams its progress to standard error and prints the receipt on standard output: exit status 0."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Reload", progress("preparing", 1, 2), progress("soaking", 2, 2), done())
    status, out, err = site.run("reload", "hello")
    assert (status, out) == (0, "hello: #13: 2/2 in 0.9 s\n")
    assert err == "hello: reload: preparing 1/2 ready\nhello: reload: soaking 2/2 ready\n"
    assert ("Reload", {}, True) in master.calls


def test_quiet(site: Site) -> None:
    """--quiet prints the receipt only."""
    site.write("hello")
    site.master("hello").answers("Reload", progress("preparing", 1, 2), done())
    assert site.run("reload", "-q", "hello") == (0, "hello: #13: 2/2 in 0.9 s\n", "")


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (error("Refused", reason="import of 'hello:app' failed", detail="Traceback\nSyntaxError"), 1,
         ["refused: import of 'hello:app' failed", "  SyntaxError", "the old workers serve on"]),
        (error("Returned", reason="5 deaths in 3 s"), 6, ["the previous one serves again: 5 deaths in 3 s"]),
        (error("Superseded", number=14), 3, ["superseded by #14"]),
        (error("Stopping"), 7, ["it is stopping"]),
        (error("Busy", text="two reloads wait already"), 1, ["two reloads wait already"]),
        (error("NotAllowed", text="only root may reload"), 5, ["only root may reload", "hint: run it as root"]),
        (error("Invalid", problems=[
            {"file": "hello.toml", "key": "workers", "found": '"x"', "expected": "a number", "hint": "say 4"}
        ]), 2, ['hello.toml: workers: found "x", expected a number', "  hint: say 4", "has 1 problem"]),
        (error("RestartNeeded", keys=[{"key": "listen", "applies": "socket restart", "text": "listen: 1 -> 2"}]), 1,
         ["listen: 1 -> 2", "1 setting cannot change while it runs",
          "hint: clusterd stop hello && clusterd start hello"]),
        (error("RestartNeeded", keys=[{"key": "user", "applies": "restart", "text": "user: a -> b"}]), 1,
         ["user: a -> b", "systemctl restart cluster@hello"]),
        ({"error": "org.varlink.service.MethodNotFound", "parameters": {}}, 1, ["no method Reload"]),
    ],
)  # fmt: skip
def test_failures(site: Site, reply: dict[str, Any], status: int, words: list[str]) -> None:
    """Each way to fail has its own exit status, and its reason on standard error."""
    site.write("hello")
    site.master("hello").answers("Reload", reply)
    found, out, err = site.run("reload", "hello")
    assert (found, out) == (status, "")
    for text in words:
        assert text in err


def test_rollback_and_try(site: Site) -> None:
    """rollback and try call their methods and print what came of it."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Rollback", done("#14: rolled back"))
    master.answers("Try", {"parameters": {"report": {"text": "generation 4 would be accepted"}}})
    assert site.run("rollback", "hello")[:2] == (0, "hello: #14: rolled back\n")
    assert site.run("try", "hello")[:2] == (0, "hello: generation 4 would be accepted\n")
    assert master.asked("Rollback") == [{}]


def patient(status: Callable[..., Any], instance: Any, **_: float) -> Any:
    """A master that answers at once may stand still for longer than the test lets one be silent."""
    return status(instance, patience=HANG)


def test_silence_while_the_master_lives(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload may be silent for longer than the patience, while the master answers Status."""
    monkeypatch.setattr(succession, "AWAITED", 0.1)
    monkeypatch.setattr(control, "status", functools.partial(patient, control.status))
    site.write("hello")
    master = site.master("hello")

    def slow(_: dict[str, Any]) -> Any:
        def until_asked() -> Any:
            while len(master.asked("Status")) < 3:
                if master.ended.wait(0.01):
                    return
            yield done()

        return until_asked()

    master.scripts["Reload"] = slow
    assert site.run("reload", "hello")[0] == 0


def test_master_gone_before_it_was_asked(site: Site) -> None:
    """A master that goes away over the first question has been asked for nothing: the next one is."""
    site.write("hello")
    master = site.master("hello")
    asked: list[int] = []

    def status(_: dict[str, Any]) -> Any:
        asked.append(1)
        return iter([None if len(asked) == 1 else {"parameters": {"status": master.status}}])

    master.scripts["Status"] = status
    master.answers("Reload", done("#13: done"))
    assert site.run("reload", "hello")[:2] == (0, "hello: #13: done\n")
    assert len(master.asked("Reload")) == 1


def test_master_replaced(site: Site) -> None:
    """A reload whose master is replaced is followed on the next one, to the same exit status."""
    site.write("hello")
    master = site.master("hello")
    asked: list[int] = []

    def status(_: dict[str, Any]) -> Any:
        asked.append(1)
        if len(asked) == 2:
            master.status["rollout"] = {"number": 13, "kind": "reload", "phase": "soaking", "generation": 4}
        if len(asked) == 3:
            receipt = {"number": 13, "kind": "reload", "outcome": "refused", "reason": "died", "text": "#13: refused"}
            master.status |= {"rollout": None, "receipt": receipt}
        return iter([{"parameters": {"status": master.status}}])

    master.scripts["Status"] = status
    master.answers("Reload", progress("preparing", 1, 2), None)
    found, _, err = site.run("reload", "hello")
    assert found == 1
    assert "soaking" in err and "#13: refused: died" in err


def test_the_next_master_takes_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper has the socket while there is no master, so that the question waits for the next one's start, which on
    a busy machine takes longer than a master is given that is there."""
    monkeypatch.setitem(control.status.__kwdefaults__, "patience", 0.05)
    site.write("hello")
    master = site.master("hello")
    quick = master.scripts["Status"]

    def slow(_: dict[str, Any]) -> Any:
        time.sleep(0.5)
        master.status["master"] = {**master.status["master"], "pid": 801}
        master.status["receipt"] = {"number": 13, "kind": "reload", "outcome": "done", "text": "#13: done"}
        return iter([{"parameters": {"status": master.status}}])

    def leave(_: dict[str, Any]) -> Any:
        master.scripts["Status"] = slow
        return iter([progress("preparing", 1, 2), None])

    master.scripts |= {"Reload": leave, "Upgrade": leave}
    assert site.run("reload", "hello")[:2] == (0, "hello: #13: done\n")
    master.scripts["Status"] = quick
    master.status["master"]["pid"] = 800
    assert site.run("upgrade", "hello")[:2] == (0, "hello: master 801, version 0.1.0\n")


def test_a_terminal_is_not_given_orders(site: Site) -> None:
    """Nor anything that reverses what is read: what an application died of may have them in it, and root reads it."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Reload", error("Refused", reason="\x1b]0;pwned\x07 \u202eno", detail="line\n\x9b8m hidden"))
    found, out, err = site.run("reload", "hello")
    assert found == 1 and r"\x1b]0;pwned\x07 \u202eno" in err and r"\x9b8m hidden" in err
    master.status["problem"] = "\x1b[2J"
    master.status["workers"][1]["last_end"] = "\x1b[2J"
    out = site.run("status", "hello")[1]
    assert out.count(r"\x1b[2J") == 2 and "\x1b" not in out + err


def test_master_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that goes away and has no successor is exit status 4, within a bounded time."""
    monkeypatch.setattr(succession, "SUCCESSION", 0.3)
    site.write("hello")
    master = site.master("hello")

    def leave(_: dict[str, Any]) -> Any:
        master.path.unlink()
        return iter([None])

    master.scripts["Reload"] = leave
    assert site.run("reload", "hello")[0] == 4


def test_environment_of_the_unit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own unit, reload sends the environment that systemd has just read, without what is one process's own."""
    site.write("hello")
    master = site.master("hello")
    master.answers("Reload", progress("preparing", 1, 2), done())
    for key in (*change.OWN_VARIABLES, "LISTEN_FDS", "WATCHDOG_USEC", "MEMORY_PRESSURE_WATCH", "EXIT_CODE"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("CLUSTERD_INSTANCE", "hello")
    monkeypatch.setenv("SECRET", "new")
    status, _, err = site.run("reload", "hello")
    (sent,) = master.asked("Reload")
    assert (status, err) == (0, "")
    assert sent.keys() == {"environment"}
    assert sent["environment"]["SECRET"] == "new"
    assert not {"CLUSTERD_INSTANCE", "NOTIFY_SOCKET", "LISTEN_FDS", "EXIT_CODE"} & sent["environment"].keys()
    assert sent["environment"] == without_own(os.environ)


def test_environment_of_another_unit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another instance's unit, and anywhere else, no environment of the caller's is sent."""
    monkeypatch.setenv("CLUSTERD_INSTANCE", "other")
    site.write("hello")
    master = site.master("hello")
    master.answers("Try", done())
    site.run("try", "hello")
    assert master.asked("Try") == [{}]


def test_environment_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """root sends what the application's environment-file says now; who is not root sends nothing."""
    variables = site.root / "hello.env"
    variables.write_text("A=1\nB='two words'\n")
    site.write("hello", f'app = "hello:app"\nlisten = "8000"\nenvironment-file = "{variables}"\n')
    master = site.master("hello")
    master.answers("Reload", done())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    site.run("reload", "hello")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    site.run("reload", "hello")
    assert master.asked("Reload") == [{"overlay": {"A": "1", "B": "two words"}}, {}]


def test_bad_environment_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment-file that cannot be used is exit status 2, and nothing is asked of the master."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    site.write("hello", 'app = "hello:app"\nlisten = "8000"\nenvironment-file = "/nonexistent/env"\n')
    master = site.master("hello")
    status, _, err = site.run("reload", "hello")
    assert status == 2
    assert "/nonexistent/env: No such file" in err
    assert not master.asked("Reload")


def test_interrupted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the client with 130, and says that the reload goes on."""
    site.write("hello")
    site.master("hello")

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "call", interrupted)
    monkeypatch.setattr(control, "status", lambda *_, **__: {})
    status, _, err = site.run("reload", "hello")
    assert status == 130
    assert "the reload goes on" in err


def test_certificates_are_handed_over(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads the files of [tls], which the service may not; anybody else leaves that to the master."""
    for part in ("certificate", "key"):
        (tmp_path / part).write_text(f"the {part}")
    listen = 'app = "hello:app"\nlisten = "8000"\n'
    site.write("hello", f'{listen}[tls]\ncertificate = "{tmp_path}/certificate"\nkey = "{tmp_path}/key"\n')
    master = site.master("hello")
    master.answers("Reload", done(), done(), done())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert site.run("reload", "hello")[0] == 0
    assert "tls" not in master.calls[-1][1]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert site.run("reload", "hello")[0] == 0
    assert master.calls[-1][1]["tls"] == {"certificate": "the certificate", "key": "the key"}
    (tmp_path / "key").unlink()
    calls = len(master.calls)
    status, _, err = site.run("reload", "hello")
    assert status == 2 and f"tls.key: found '{tmp_path}/key': No such file or directory" in err
    assert len(master.calls) == calls
