"""[profile.NAME]: what it lays over the file, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterd.config import profiles
from clusterd.config.load import Invalid, load, load_among

FILE = """
app = "hello:app"
listen = "127.0.0.1:8000"
workers = 2
[http]
keep-alive = "9s"
root-path = "/x"
[env]
A = "plain"
B = "plain"
[profile.production]
workers = 8
[profile.production.http]
keep-alive = "75s"
[profile.production.env]
B = "production"
[profile.empty]
"""


def write(directory: Path, text: str = FILE) -> Path:
    path = directory / "hello.toml"
    path.write_text(text)
    return path


def problems(path: Path, profile: str | None = None) -> list[str]:
    with pytest.raises(Invalid) as e:
        load(path, profile=profile)
    return [line.removeprefix(f"{path}: ") for line in str(e.value).splitlines()]


def test_plain(tmp_path: Path) -> None:
    """A file whose profile nobody has chosen is the file without its profiles."""
    settings = load(write(tmp_path))
    assert (settings.profile, settings.workers, settings.http.keep_alive, settings.env) == (
        "", 2, 9.0, {"A": "plain", "B": "plain"},
    )  # fmt: skip


def test_laid_over(tmp_path: Path) -> None:
    """A profile replaces the keys it has, table by table, and leaves all others."""
    settings = load(write(tmp_path), profile="production")
    assert (settings.profile, settings.workers, settings.env) == ("production", 8, {"A": "plain", "B": "production"})
    assert (settings.http.keep_alive, settings.http.root_path) == (75.0, "/x")
    assert settings.reload.linger == 30.0  # follows the profile's keep-alive, as it does the file's


def test_remembered(tmp_path: Path) -> None:
    """What was chosen holds for whoever reads the file, until it is forgotten; a choice of the moment comes first."""
    path = write(tmp_path)
    profiles.choose(str(path), "production")
    assert (tmp_path / "hello.profile").read_text() == "production\n"
    assert (tmp_path / "hello.profile").stat().st_mode & 0o777 == 0o644
    assert (load(path).workers, load_among(path, ()).workers, load(path, profile="").workers) == (8, 8, 2)
    profiles.choose(str(path), "")
    profiles.choose(str(path), "")
    assert load(path).workers == 2 and [p.name for p in tmp_path.iterdir()] == ["hello.toml"]


def test_chosen_profile_is_gone(tmp_path: Path) -> None:
    """A profile that was chosen and is not in the file is an error, never the plain file in silence."""
    path = write(tmp_path)
    profiles.choose(str(path), "producton")
    assert problems(path) == [
        "profile: found 'producton' chosen, which the file does not have, expected a profile of it, or 'none'; "
        "hint: did you mean 'production'?"
    ]
    assert load_among(path, (), profile="production").workers == 8  # the one asked for counts, not the one remembered


def test_none_by_hand(tmp_path: Path) -> None:
    """'none' in the file of the choice is what it is on the command line, with a newline or without."""
    path = write(tmp_path)
    for text in ("none\n", "none"):
        (tmp_path / "hello.profile").write_text(text)
        assert load(path).workers == 2


def test_choice_that_cannot_be_read(tmp_path: Path) -> None:
    """A choice that is no text, or too long, names its own file."""
    path = write(tmp_path)
    (tmp_path / "hello.profile").write_bytes(b"x" * 1000)
    with pytest.raises(Invalid, match=r"hello\.profile: found more than 100 bytes, expected the name of a profile"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile = 5", "profile: found 5, expected tables: [profile.NAME]"),
        ("[profile]\nx = 5", "profile.x: found 5, expected a table: [profile.x]"),
        (
            "[profile.none]",
            "profile.none: found that name, expected [a-z][a-z0-9-]{0,22}, and not 'none', which stands for the file "
            "without a profile",
        ),
        (
            '[profile.x]\nlisten = "80"',
            "profile.x.listen: found a key that no profile has, expected another key; hint: the sockets are the "
            "application's, whatever profile it runs with: give it above all tables",
        ),
        ("[profile.x.profile.y]", "profile.x.profile: found a key that no profile has, expected another key"),
        (
            "[profile.x]\nworkrs = 1",
            "profile.x.workrs: found an unknown key, expected a key of cluster.toml(5); hint: did you mean 'workers'?",
        ),
        ("[profile.x]\nworkers = 0", 'profile.x.workers: found 0, expected "auto" or a whole number from 1 to 1024'),
        (
            "[profile.x.env]\nA = 5",
            "profile.x.env.A: found an integer, expected a string; hint: put the value in quotes",
        ),
        (
            '[profile.x.restart]\ndelay = "1min"',
            "profile.x.restart.max-delay: found 30 s, expected at least restart.delay, 60 s",
        ),
        (
            '[profile.x]\ncommand = ["a"]',
            "profile.x.command: found both 'app' and 'command', expected one of them; hint: an application is one or "
            "the other",
        ),
    ],
)
def test_messages(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake in a profile, one that only shows when it is laid over the file too, is told with its profile."""
    path = write(tmp_path, f'app = "a:b"\nlisten = "8000"\n{text}\n')
    assert problems(path) == [message]


def test_too_many(tmp_path: Path) -> None:
    """Profiles are bounded: each costs a reading of the file."""
    text = 'app = "a:b"\nlisten = "8000"\n' + "".join(f"[profile.p{n}]\n" for n in range(33))
    assert problems(write(tmp_path, text)) == ["profile: found 33 profiles, expected at most 32"]


def test_all_profiles_at_once(tmp_path: Path) -> None:
    """Whichever is used, the mistakes of every profile are told, and none of the file's twice."""
    text = 'app = "a:b"\nlisten = "8000"\nslots = 0\n[profile.a]\nworkers = 0\n[profile.b]\nuser = "root"\n'
    path = write(tmp_path, text)
    for profile in ("", "a", "b"):
        keys = [line.split(":")[0] for line in problems(path, profile)]
        assert keys == ["slots", "profile.a.workers", "profile.b.user"]
