"""Completion, asked of the real shells: what they offer after a line."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.cli.completion.__main__ import SHELLS, script
from clusterd.cli.program import clusterd
from tests.lacking import lacking
from tests.patience import HANG

Offers = Callable[[str], list[str]]
FILE = "app = 'a:b'\nlisten = '8000'\n[profile.production]\n[profile.production.env]\n  [profile.staging.http]\n"

ZSH = """
autoload -Uz compinit && compinit -u -d $DUMP
zstyle ':completion:*' completer _all_matches _complete
zstyle ':completion:*' insert yes
zle-line-init() { print -n READY >&2 }
done-typing() { print -rn -- "$BUFFER" >$OUT; exit }
zle -N zle-line-init
zle -N done-typing
bindkey '^X' done-typing
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as installed; for zsh with its dump of all functions, which takes seconds to make."""
    made = tmp_path_factory.mktemp("completion")
    service = made / "cgroup/system.slice/system-cluster.slice/cluster@hello.service"
    own = made / f"cgroup/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service/app.slice/app-cluster.slice"
    for group in (
        service / "worker-17",
        service / "worker-18",
        service / "zygote-1",
        own / "cluster@shop.service/worker-3",
    ):
        group.mkdir(parents=True)
    for shell, name in {"bash": "clusterd", "zsh": "_clusterd", "fish": "clusterd.fish"}.items():
        (made / name).write_text(script(shell).replace("/sys/fs/cgroup", str(made / "cgroup")))
    (made / "clusterd.zshrc").write_text(f"fpath=({made} $fpath)\nDUMP={made}/.dump\n{ZSH}")
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A user's home, with two applications of its own."""
    files = tmp_path / ".config" / "clusterd"
    files.mkdir(parents=True)
    (files / "hello.toml").write_text(FILE)
    (files / "shop.toml").write_text("")
    (files / "hello.profile").write_text("staging\n")
    (tmp_path / "here.toml").write_text("")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture(params=list(SHELLS))
def offers(request: pytest.FixtureRequest, place: Path, scripts: Path) -> Offers:
    """What the shell offers for the last word of a line, sorted."""
    shell = request.param
    lacking(None if shutil.which(shell) else f"missing: {shell}")
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "TERM": "xterm", "LC_ALL": "C.UTF-8"}

    def run(*argv: str) -> list[str]:
        done = subprocess.run(
            argv, env=environment, cwd=place, capture_output=True, text=True, timeout=HANG, check=True
        )
        assert done.stderr == ""
        return sorted(line.partition("\t")[0].strip() for line in done.stdout.splitlines())

    def bash(line: str) -> list[str]:
        words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
        ask = f"COMP_WORDS=({' '.join(f'{w!r}' for w in words)}); COMP_CWORD={len(words) - 1}; _clusterd"
        return run("bash", "--norc", "-c", f'. {scripts}/clusterd; {ask}; printf "%s\\n" "${{COMPREPLY[@]}}"')

    def fish(line: str) -> list[str]:
        return run("fish", "--no-config", "-c", f"source {scripts}/clusterd.fish; complete -C {shlex.quote(line)}")

    def zsh(line: str) -> list[str]:
        out = place / ".out"
        argv = ["zsh", "-f", "-i"]
        asked = _on_terminal(
            argv, f"source {scripts}/clusterd.zshrc\n", f"{line}\t\x18", environment | {"OUT": str(out)}, place
        )
        assert out.exists(), asked
        whole = shlex.split(out.read_text())
        return sorted(whole[len(line.split(" ")) - 1 :])

    return {"bash": bash, "zsh": zsh, "fish": fish}[shell]


def _on_terminal(argv: list[str], first: str, then: str, environment: dict[str, str], directory: Path) -> str:
    """Type `first`, and when the shell says READY, `then`; what it showed until it exits."""
    outer, inner = pty.openpty()
    with subprocess.Popen(
        argv, env=environment, cwd=directory, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    ) as process:
        os.close(inner)
        os.write(outer, first.encode())
        shown, end = b"", time.monotonic() + HANG
        try:
            while select.select([outer], [], [], max(0.0, end - time.monotonic()))[0]:
                shown += os.read(outer, 65536)
                if b"READY" in shown.replace(first.encode(), b"") and then:
                    os.write(outer, then.encode())
                    then = ""
        except OSError:  # EIO: it has exited
            pass
        finally:
            os.close(outer)
            process.kill()
    return shown.decode(errors="replace")


def test_commands(offers: Offers) -> None:
    """First the commands, all of them, and those that begin so."""
    assert offers("clusterd ") == sorted(clusterd.commands)
    assert offers("clusterd rel") == ["reload"]
    assert offers("clusterd --user st") == ["start", "status", "stop"]


def test_instances(offers: Offers) -> None:
    """After a command that takes one, the applications that have a file; one only."""
    for command in ("reload", "status", "stop"):
        assert offers(f"clusterd --user {command} ") == ["hello", "shop"], command
    assert offers("clusterd --user reload h") == ["hello"]
    assert offers("clusterd --user reload --quiet s") == ["shop"]
    assert offers("clusterd --config-dir .config/clusterd reload sh") == ["shop"]


def test_options(offers: Offers) -> None:
    """After a dash, the options of that command, and of no other."""
    assert offers("clusterd --user reload --") == ["--help", "--host", "--profile", "--quiet"]
    assert offers("clusterd run --work") == ["--workers"]
    assert offers("clusterd --conf") == ["--config-dir"]


def test_values(offers: Offers) -> None:
    """After an option, what it takes: the words of a choice, the profiles of the file, directories."""
    engine = next(p for p in clusterd.commands["run"].params if p.name == "engine")
    assert offers("clusterd run --engine ") == sorted(engine.type.choices)  # type: ignore[attr-defined]
    assert offers("clusterd --user reload hello --profile ") == ["none", "production", "staging"]
    assert offers("clusterd --user start hello --profile pro") == ["production"]
    assert offers("clusterd --user reload shop --profile ") == ["none"]
    assert [each.rstrip("/") for each in offers("clusterd run --directory fol")] == ["folder"]


def test_workers(offers: Offers) -> None:
    """After --worker, the numbers of the application's workers: their cgroups have them, so nobody is asked."""
    assert offers("clusterd send hello --worker ") == ["17", "18"]
    assert offers("clusterd send hello topic --worker 18") == ["18"]
    assert offers("clusterd --user send shop --worker ") == ["3"]
    assert [each for each in offers("clusterd --user send nobody --worker ") if each] == []


def test_files(offers: Offers) -> None:
    """A command that takes a file offers it, beside the instances where it takes those."""
    assert offers("clusterd run her") == ["here.toml"]
    assert offers("clusterd --user check h") == ["hello", "here.toml"]


def test_no_program_is_started() -> None:
    """A TAB never starts Python: that takes longer than people wait."""
    for shell in SHELLS:
        lines = [line for line in script(shell).splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in lines if re.search(r"\$?\((clusterd|python3?) |`|^\s*(clusterd|python3?) ", line)]


def test_shellcheck(tmp_path: Path) -> None:
    """shellcheck finds nothing in the file for bash."""
    lacking(None if shutil.which("shellcheck") else "missing: shellcheck")
    file = tmp_path / "clusterd"
    file.write_text(script("bash"))
    done = subprocess.run(["shellcheck", "--shell=bash", file], capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout) == (0, "")
