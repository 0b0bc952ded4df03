from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.cli import control, observe
from clusterd.cli.terminal import age, ranges
from tests.patience import HANG

from .conftest import STATUS, Site, error


def test_status(site: Site) -> None:
    """status says state, addresses, slots, the last receipt, every worker and every generation."""
    site.write("hello")
    master = site.master("hello")
    master.status["workers"][1]["last_end_at"] = time.time() - (2 * 24 + 5.5) * 3600
    status, out, err = site.run("status", "hello")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("hello: serving, 2/2 workers, generation 3\n")
    assert ["addresses", "0.0.0.0:8000"] in lines
    assert ["slots", "2", "of", "16", "live", "(0-1)"] in lines
    assert "last reload  #12: 2/2 in 1.3 s, 3 WebSockets closed 1012" in out
    rows = [" ".join(line) for line in lines]
    assert "WORKER SLOT GENERATION STATE PID AGE REQUESTS IN FLIGHT CONNECTIONS MEMORY CPU RESTARTS" in rows
    assert "17 0 3 serving 4711 2 h 5 min 1234 2 3 50.0 MiB 61.2 s 0" in rows
    assert "18 1 3 serving 4712 12 s - - - 1.0 MiB 0.0 s 2" in rows
    assert "slot 1: a worker ended 2 d 5 h ago: killed by SIGKILL" in out.splitlines()
    assert ["2", "parked", "spawn", "uvicorn", "0.32.0", "3.11.2", "4600", "/srv/hello/releases/6"] in lines
    assert "generation 2 spawns each worker instead of forking it: thread 'poller'" in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_status_while_reloading_and_with_a_problem(site: Site) -> None:
    """What is wrong comes first, and a rollout under way is told."""
    site.write("hello")
    master = site.master("hello")
    master.status |= {
        "state": "degraded",
        "problem": "worker 17 died 5 times: exit status 1",
        "rollout": {"number": 13, "kind": "reload", "phase": "soaking", "generation": 4},
    }
    _, out, _ = site.run("status", "hello")
    assert out.splitlines()[1].split(None, 1) == ["problem", "worker 17 died 5 times: exit status 1"]
    assert "#13 soaking, generation 4" in out


def test_status_json(site: Site) -> None:
    """--json is the status object itself, and nothing else."""
    site.write("hello")
    site.master("hello")
    status, out, err = site.run("status", "--json", "hello")
    assert (status, json.loads(out), err) == (0, STATUS, "")


def test_status_by_path(site: Site) -> None:
    """The path of a control socket names an instance without a file."""
    master = site.master("anything")
    assert site.run("status", str(master.path))[0] == 0


def test_not_running(site: Site) -> None:
    """An instance that does not run is exit status 4, with what to do about it."""
    site.write("hello")
    status, out, err = site.run("status", "hello")
    assert (status, out) == (4, "")
    assert err == "clusterd: hello is not running\nhint: clusterd start hello\n"


def test_stale_socket(site: Site) -> None:
    """A control socket that nobody listens on any more is an instance that does not run."""
    site.write("hello")
    (site.runtime / "hello").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(site.runtime / "hello" / "control"))
    assert site.run("status", "hello")[0] == 4


def test_unknown_instance(site: Site) -> None:
    """An unknown name is exit status 2, with the nearest known one."""
    site.write("hello")
    status, out, err = site.run("status", "helo")
    assert (status, out) == (2, "")
    assert "no instance 'helo'" in err and "did you mean 'hello'?" in err


@pytest.mark.parametrize("name", ["Hello", "-x", "a" * 24, "ä", ".", "a_b"])
def test_impossible_name(site: Site, name: str) -> None:
    """A name outside the grammar is refused with the grammar, never looked up."""
    status, _, err = site.run("status", "--", name)
    assert status == 2
    assert "[a-z][a-z0-9-]{0,22}" in err


@pytest.mark.parametrize("name", ["cluster@hello", "cluster@hello.service", "hello.toml"])
def test_unit_name(site: Site, name: str) -> None:
    """The unit's or the file's name means the instance."""
    site.write("hello")
    site.master("hello")
    assert site.run("status", name)[0] == 0


def test_silent_master(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that does not answer is given up within a bounded time: exit status 4."""
    site.write("hello")
    master = site.master("hello")

    def hang(_: dict[str, Any]) -> Any:
        master.ended.wait()
        return iter(())

    master.scripts["Status"] = hang
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    monkeypatch.setattr(control.status, "__kwdefaults__", {"patience": 0.2})
    status, _, err = site.run("status", "hello")
    master.close()
    assert status == 4
    assert "does not answer within 0.2 s" in err and "journalctl -u cluster@hello" in err


def test_not_allowed(site: Site) -> None:
    """A refusal for want of rights is exit status 5."""
    site.write("hello")
    site.master("hello").answers("Status", error("NotAllowed", text="only the group 'clusterd' may ask"))
    status, _, err = site.run("status", "hello")
    assert status == 5
    assert "only the group 'clusterd' may ask" in err


def test_not_a_master(site: Site) -> None:
    """A socket that speaks something else is told as such."""
    site.write("hello")
    master = site.master("hello")
    master.scripts["Status"] = lambda _: iter([{"parameters": {"status": "fine"}}])
    assert site.run("status", "hello")[0] == 4


def test_list_of_one_address_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two files with one address, list calls that one invalid which check refuses: by who runs, then by name."""
    monkeypatch.setattr(observe, "LIST_PATIENCE", HANG)
    for name in ("alpha", "beta", "gamma"):
        site.write(name, f'app = "a:b"\nlisten = "{8001 if name == "gamma" else 8000}"\n')
    rows = {row["name"]: row for row in json.loads(site.run("list", "--json")[1])}
    assert [row["state"] for row in rows.values()] == ["stopped", "invalid", "stopped"]
    assert "'alpha' listens on '[::]:8000'" in rows["beta"]["problem"]
    site.master("beta")
    rows = {row["name"]: row for row in json.loads(site.run("list", "--json")[1])}
    assert [row["state"] for row in rows.values()] == ["invalid", "serving", "stopped"]
    assert site.run("check", "alpha")[0] == 2


def test_list(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """list has every file and every running instance, and exits 0 whatever their states are."""
    answered = control.status

    def patient(instance: Any, *, patience: float) -> Any:
        assert patience == observe.LIST_PATIENCE
        return answered(instance, patience=0.2 if instance.name == "hung" else HANG)

    monkeypatch.setattr(control, "status", patient)
    site.write("hello")
    site.write("idle", 'app = "idle:app"\nlisten = "8001"\n')
    site.write("broken", "app = 3\n")
    site.write("Not-A-Name")
    site.master("hello")
    site.master("gone").status |= {"state": "degraded", "summary": "0/2 workers", "problem": "no such module"}
    hung = site.master("hung")

    def hang(_: dict[str, Any]) -> Any:
        hung.ended.wait()
        return iter(())

    hung.scripts["Status"] = hang
    status, out, err = site.run("list", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert (status, err) == (0, "")
    assert {name: each["state"] for name, each in found.items()} == {
        "broken": "invalid", "gone": "degraded", "hello": "serving", "hung": "unknown", "idle": "stopped",
    }  # fmt: skip
    assert found["hello"]["summary"] == "2/2 workers, generation 3"
    assert found["broken"]["problem"].startswith(f"{site.config}/broken.toml: app")
    _, out, _ = site.run("list")
    assert ["gone", "degraded", "no", "such", "module"] in [line.split() for line in out.splitlines()]
    hung.close()


def test_list_nothing(site: Site) -> None:
    """Without any instance list says where it looked; as JSON it is an empty array."""
    assert site.run("list") == (0, f"no instances: no *.toml in {site.config}\n", "")
    assert json.loads(site.run("list", "--json")[1]) == []


@given(st.lists(st.integers(0, 300)))
def test_ranges_lose_nothing(numbers: list[int]) -> None:
    """Every number is in its ranges, and no other."""
    text = ranges(numbers)
    found = set()
    for part in text.split(", ") if text != "none" else []:
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    assert found == set(numbers)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (7500, "2 h 5 min"), (90000, "1 d 1 h"), (-1, "0 s")],
)
def test_age(seconds: float, text: str) -> None:
    """Ages have at most two units."""
    assert age(seconds) == text


def test_status_check(site: Site) -> None:
    """status --check is a health check: one line and 0 while a worker serves, 1 with the reason when none does."""
    site.write("hello")
    assert site.run("status", "--check", "hello")[0] == 4
    master = site.master("hello")
    assert site.run("status", "--check", "hello") == (0, "hello: serving, 2/2 workers, generation 3\n", "")
    master.status |= {"problem": "lifespan failed", "slots": {"total": 16, "live": []}}
    assert site.run("status", "--check", "hello") == (1, "", "clusterd: hello: no worker serves: lifespan failed\n")
