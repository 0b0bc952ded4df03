"""Names, times and cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config.cores import cores, default_slots
from clusterd.config.homes import at_home
from clusterd.config.names import is_account, is_name
from clusterd.config.values import duration, duration_text


@pytest.mark.parametrize("name", ["a", "hello", "my-app-2", "a" * 23])
def test_names(name: str) -> None:
    """A name is lower case, begins with a letter, and leaves 'cluster-NAME' within the 31 bytes of a user."""
    assert is_name(name)
    assert len(f"cluster-{name}") <= 31


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a.b", "a_b", "a" * 24, "a\n", "é", "a/b", "a@b", "%i"])
def test_no_names(name: str) -> None:
    """Nothing that systemd would escape, or a path could be made of."""
    assert not is_name(name)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("www-data", True),
        ("_apt", True),
        ("33", True),
        ("65534", True),
        ("4294967294", True),
        ("Root", False),
        ("033", False),
        ("65535", False),
        ("4294967295", False),
        ("4294967296", False),
        ("9999999999", False),
    ],
)
def test_accounts(text: str, good: bool) -> None:
    """What User= takes in strict mode: of the numbers, neither (uid_t) -1 nor the same of 16 bits."""
    assert is_account(text) is good


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("100ms", 0.1),
        ("5min", 300),
        ("1min 30s", 90),
        ("1h", 3600),
        ("1.5s", 1.5),
        ("0", 0),
        ("2 d", 172800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """systemd's grammar of times."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1y", "1 month", "1e3s", "1s,2s", "٣s", "infinity"])
def test_no_durations(text: str) -> None:
    """A number without a unit is no time: seconds to one reader are milliseconds to another."""
    with pytest.raises(ValueError):
        duration(text)


@given(st.integers(0, 10**10))
def test_duration_text(milliseconds: int) -> None:
    """What is written reads back as the same, to the millisecond."""
    assert duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


def cgroup(tmp_path: Path, limits: dict[str, str]) -> tuple[str, str]:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    for level, limit in limits.items():
        (tmp_path / "tree" / level).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / level / "cpu.max").write_text(limit)
    return str(tmp_path / "tree"), str(own)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "100000 100000"}, 1),
        ({"a": "50000 100000", "a/b": "max 100000"}, 1),
        ({"a": "max 100000", "a/b": "nonsense"}, None),
    ],
)
def test_cores(tmp_path: Path, limits: dict[str, str], expected: int | None) -> None:
    """Cores are those of the affinity mask, or of the tightest quota above this process, and at least one."""
    assert cores(*cgroup(tmp_path, limits)) == (expected or len(os.sched_getaffinity(0)))


def test_quota_is_rounded_up(tmp_path: Path) -> None:
    """A core and a half is two workers."""
    assert cores(*cgroup(tmp_path, {"a/b": "150000 100000"})) == min(2, len(os.sched_getaffinity(0)))


def test_quota_of_cgroup_version_1(tmp_path: Path) -> None:
    """The quota of a version 1 machine counts as well, in a container too, whose path is the host's; -1 is none."""
    own, mount = tmp_path / "own", tmp_path / "cpu"
    own.write_text("5:memory:/m\n4:cpu,cpuacct:/docker/0123\n0::/\n")
    mount.mkdir()
    (mount / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("100000", 1), ("-1", len(os.sched_getaffinity(0)))):
        (mount / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert cores(str(tmp_path), str(own)) == expected


def test_quota_of_a_cgroup_in_any_encoding(tmp_path: Path) -> None:
    """A cgroup's name is bytes: one that is no UTF-8 has its quota too."""
    tree = os.fsencode(tmp_path / "tree") + b"/\xff"
    os.makedirs(tree)
    Path(os.fsdecode(tree), "cpu.max").write_text("100000 100000")
    (tmp_path / "own").write_bytes(b"0::/\xff\n")
    assert cores(str(tmp_path / "tree"), str(tmp_path / "own")) == 1


def test_cores_without_cgroups(tmp_path: Path) -> None:
    """A machine without cgroup v2 has its affinity mask."""
    assert cores(str(tmp_path), str(tmp_path / "none")) == len(os.sched_getaffinity(0))


def test_default_slots() -> None:
    """Slots are more than the cores, and no quota changes them: the generator runs outside of it."""
    assert max(16, os.cpu_count() or 1) == default_slots()


def test_homes() -> None:
    """Below a home is what ProtectHome= hides; a name that only begins like one is not."""
    assert at_home(["/srv/x", "/home/u1/app"])
    assert at_home(["/root"])
    assert not at_home(["/srv/home", "/homes/x", "", "relative"])
