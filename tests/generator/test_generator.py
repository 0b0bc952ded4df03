"""The generator, as systemd runs it: a program of its own, isolated, without site-packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clusterd import generator
from tests.lacking import lacking
from tests.patience import HANG
from tests.processor import spent

PROJECT = Path(__file__).resolve().parent.parent.parent
GENERATOR = PROJECT / "service" / "clusterd" / "generator.py"
GOLDEN = Path(__file__).resolve().parent / "golden"
PYTHON = ["/usr/bin/python3", "-IS"]

ALLOWED = {
    "addresses", "claims", "confinement", "cores", "files", "homes", "names", "places", "profiles", "timers",
    "values",
}  # fmt: skip
"""Of clusterd.config: what the generator may import."""

SLOW = {
    "dataclasses",
    "inspect",
    "typing_extensions",
    "ipaddress",
    "socket",
    "pathlib",
    "json",
    "subprocess",
    "logging",
}
"""Of the standard library: what it can do without, each as slow as half of Python's own start."""


def generate(tmp_path: Path, configuration: Path, *running: str) -> tuple[Path, list[str]]:
    """Run it as systemd does; the directory it wrote and the lines it said. `running`: instances that serve."""
    out, runtime = tmp_path / "out", tmp_path / "run"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in running:
        (runtime / name).mkdir(parents=True)
        (runtime / name / "control").touch()
    argv = [
        *PYTHON,
        str(GENERATOR),
        str(out),
        "/nonexistent/early",
        "/nonexistent/late",
        str(configuration),
        str(runtime),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env={}, timeout=HANG)
    assert (done.returncode, done.stdout) == (0, "")
    return out, done.stderr.splitlines()


def contents(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}


def test_golden(tmp_path: Path) -> None:
    """Each file gets its two drop-ins, a broken or refused one none, and no file spoils another."""
    shutil.copytree(GOLDEN / "etc", tmp_path / "etc", copy_function=shutil.copyfile)
    (tmp_path / "etc").chmod(0o755)
    out, said = generate(tmp_path, tmp_path / "etc")
    made = {path: text.replace(str(tmp_path), "") for path, text in contents(out).items()}
    if os.environ.get("GOLDEN") == "write":  # then read the difference before it is committed
        shutil.rmtree(GOLDEN / "out", ignore_errors=True)
        for path, text in made.items():
            (GOLDEN / "out" / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / "out" / path).write_text(text)
    assert made == contents(GOLDEN / "out")
    served = {"careless", "cmd", "confined", "full", "hello", "lenient"}
    timed = {f"cluster-task@{task}.{kind}" for task in ("full:purge", "hello:report") for kind in ("timer", "service")}
    assert {path.split("/")[0] for path in made} == timed | {
        f"cluster@{n}.{k}.d" for n in served for k in ("socket", "service")
    }
    careless = [line for line in said if "/careless.toml: " in line]
    assert len(careless) == 14 and all(line.endswith(", ignoring") for line in careless)
    assert [line.replace(str(tmp_path), "") for line in said if line not in careless] == [
        "clusterd-generator: /etc/broken.toml: Invalid value (at line 1, column 7); it gets no socket, ignoring",
        "clusterd-generator: /etc/full.toml: [tls] is not read as root by 'systemctl reload': '/etc/clusterd/100%.env'"
        ": No such file or directory, ignoring",
        "clusterd-generator: /etc/newline.toml: 'user' is a string; it gets no socket, ignoring",
        "clusterd-generator: /etc/no-address.toml: no 'listen'; it gets no socket, ignoring",
        "clusterd-generator: /etc/superuser.toml: 'user' is never root; it gets no socket, ignoring",
        "clusterd-generator: /etc/overlap.toml: '127.0.0.1:8000' overlaps '[::]:8000' of /etc/hello.toml; it gets no "
        "socket, ignoring",
    ]


def test_one_slot_a_line(tmp_path: Path) -> None:
    """A TCP address stands once per slot, in the order of the file; a UNIX socket once, being shared."""
    (tmp_path / "a.toml").write_text('listen = ["8000", "/run/a.sock", "127.0.0.1:81"]\nslots = 3\n')
    out, _ = generate(tmp_path, tmp_path)
    lines = contents(out)["cluster@a.socket.d/50-clusterd.conf"].splitlines()
    assert [line for line in lines if line.startswith("ListenStream=")] == [
        *["ListenStream=8000"] * 3, "ListenStream=/run/a.sock", *["ListenStream=127.0.0.1:81"] * 3,
    ]  # fmt: skip


def test_default_slots(tmp_path: Path) -> None:
    """Without `slots` there are as many lines as the master expects."""
    (tmp_path / "a.toml").write_text("listen = 80\n")
    out, _ = generate(tmp_path, tmp_path)
    lines = contents(out)["cluster@a.socket.d/50-clusterd.conf"].count("ListenStream=80\n")
    assert lines == max(16, os.cpu_count() or 1)


def test_the_running_one_keeps_its_address(tmp_path: Path) -> None:
    """A newcomer never takes the address of an application that runs, whatever its name."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text("listen = 80\n")
    out, said = generate(tmp_path, tmp_path, "b")
    assert {path.split("/")[0] for path in contents(out)} == {"cluster@b.socket.d", "cluster@b.service.d"}
    assert "a.toml" in said[0]


@pytest.mark.parametrize(
    "file",
    [
        "",
        "\0",
        "a = " + "[" * 5000,
        "listen = []",
        "listen = [[]]",
        "listen = 0",
        "listen = 80\nslots = 1000",
        "#" * 300000,
    ],
    ids=["empty", "nul", "deep", "none", "list", "zero", "slots", "large"],
)
def test_any_file(tmp_path: Path, file: str) -> None:
    """Whatever one file holds, the next one is served."""
    (tmp_path / "bad.toml").write_text(file)
    (tmp_path / "good.toml").write_text("listen = 80\n")
    out, said = generate(tmp_path, tmp_path)
    assert {path.split("/")[0] for path in contents(out)} == {"cluster@good.socket.d", "cluster@good.service.d"}
    assert len(said) == 1
    assert "bad.toml" in said[0]


def test_any_locale(tmp_path: Path) -> None:
    """Drop-ins are in UTF-8, which is how systemd reads them, whatever the locale of the machine: here ASCII, for a
    bare Debian has no locale of ISO-8859, and Python would take UTF-8 for C."""
    tls = 'environment-file = "/etc/żaba"\n[tls]\ncertificate = "/a"\nkey = "/b"\n'
    (tmp_path / "a.toml").write_text(f'listen = 80\n{tls}[sandbox]\nwrite = ["/srv/żaba"]\n', encoding="utf-8")
    (tmp_path / "b.toml").write_text("listen = 81\n")
    argv = [*PYTHON, "-X", "utf8=0", str(GENERATOR), str(tmp_path / "out"), "", "", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, env={"LC_ALL": "C"}, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (0, b"", 1)
    assert b"aba': No such file or directory, ignoring" in done.stderr
    made = {path.parent.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*.conf")}
    assert sorted(made) == [f"cluster@{name}.{kind}.d" for name in "ab" for kind in ("service", "socket")]
    assert "ReadWritePaths=-/srv/żaba\n" in made["cluster@a.service.d"]


def test_what_cannot_be_written_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drop-in that cannot be written, or not be encoded, is told of, and the next file has its own."""
    written: list[str] = []

    def put(path: str, _: str) -> None:
        if "@a" in path:
            raise OSError(28, "No space left on device")
        if "@b" in path:
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "as a test has it")
        written.append(path)

    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.toml").write_text(f"listen = {80 + number}\n")
    monkeypatch.setattr(generator, "put", put)
    assert generator.main([str(tmp_path / "out"), "", "", str(tmp_path), str(tmp_path)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in said] == [f"{tmp_path}/a.toml", f"{tmp_path}/b.toml"]
    assert [Path(path).parent.name for path in written] == ["cluster@c.socket.d", "cluster@c.service.d"]


@pytest.mark.parametrize(
    "line",
    ['user = "65535"', 'group = "4294967295"', 'listen = { path = "/run/x", user = "4294967296" }'],
    ids=["user", "group", "listen"],
)
def test_no_account_that_systemd_does_not_take(tmp_path: Path, line: str) -> None:
    """A number that systemd refuses costs the file its drop-ins, and is told: a socket unit with it does not load."""
    (tmp_path / "a.toml").write_text(f"{line}\n" if "listen" in line else f"listen = 80\n{line}\n")
    out, said = generate(tmp_path, tmp_path)
    assert contents(out) == {}
    assert len(said) == 1 and "a number is at most 4294967294, and not 65535" in said[0]


def test_no_socket_in_a_runtime_directory(tmp_path: Path) -> None:
    """A UNIX socket in a service's own directory gets no unit: root would open it where an application puts links."""
    for name, place in {"a": "run/a/http.sock", "b": "runner/http.sock"}.items():
        (tmp_path / f"{name}.toml").write_text(f'listen = "{tmp_path}/{place}"\n')
    out, said = generate(tmp_path, tmp_path)
    assert {path.split("/")[0] for path in contents(out)} == {"cluster@b.socket.d", "cluster@b.service.d"}
    assert said == [
        f"clusterd-generator: {tmp_path}/a.toml: '{tmp_path}/run/a/http.sock' is below '{tmp_path}/run', whose "
        "directories are removed when their application stops; it gets no socket, ignoring"
    ]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (None, ""),
        ("/etc/os-release", ""),
        ("env", "which others than root may change"),
        ("/etc/none", "'/etc/none': No such file or directory"),
        ("/etc/żaba", "'/etc/żaba': No such file or directory"),
    ],
    ids=["none", "of-root", "of-others", "missing", "missing-utf8"],
)
def test_reload_as_root(tmp_path: Path, file: str | None, why: str) -> None:
    """With [tls] ExecReload= is run as root, but never in an environment that others than root may write: LD_PRELOAD
    there would be root's. It is told why not; the certificate is loaded at the start in any case."""
    (tmp_path / "env").touch()
    (tmp_path / "env").chmod(0o666)
    text = f'environment-file = "{tmp_path / file}"\n' if file else ""
    tls = '[tls]\ncertificate = "/etc/site.crt"\nkey = "/etc/site.key"\n'
    (tmp_path / "a.toml").write_text(f"listen = 80\n{text}{tls}", encoding="utf-8")
    out, said = generate(tmp_path, tmp_path)
    made = (out / "cluster@a.service.d" / "50-clusterd.conf").read_text(encoding="utf-8")
    assert ("\nExecReload=\nExecReload=+/usr/bin/clusterd reload %i\n" in made) == (not why)
    assert ("ExecReload" in made) == (not why)
    assert "\nLoadCredential=clusterd-tls-key:/etc/site.key\n" in made and ("EnvironmentFile=-" in made) == bool(file)
    begin = f"clusterd-generator: {tmp_path}/a.toml: [tls] is not read as root by 'systemctl reload': '"
    assert [line.startswith(begin) and line.endswith(f"{why}, ignoring") for line in said] == [True] * bool(why)


def test_no_regular_file(tmp_path: Path) -> None:
    """A FIFO, a directory or a dangling link does not hang the boot."""
    os.mkfifo(tmp_path / "a.toml")
    (tmp_path / "b.toml").mkdir()
    (tmp_path / "c.toml").symlink_to("gone")
    (tmp_path / "d.toml").write_text("listen = 80\n")
    out, said = generate(tmp_path, tmp_path)
    assert len(said) == 3
    assert len(contents(out)) == 2


def test_of_a_user(tmp_path: Path) -> None:
    """A user's systemd runs it for the files of that user: the same sockets, and no account and no ProtectHome=."""
    home, out = tmp_path / "home", tmp_path / "out"
    (home / ".config" / "clusterd").mkdir(parents=True)
    out.mkdir()
    file = home / ".config" / "clusterd" / "a.toml"
    file.write_text(
        'listen = [8000, { path = "/tmp/a", user = "x", group = "y" }]\nslots = 2\nuser = "x"\ngroup = "y"\n'
        'directory = "/home/X"\nenvironment-file = "/home/X/env"\n'
    )
    environment = {"SYSTEMD_SCOPE": "user", "HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path)}
    argv = [*PYTHON, str(GENERATOR), str(out), "", ""]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    sections = {path: text.split("]\n")[-1].splitlines() for path, text in contents(out).items()}
    assert sections == {
        "cluster@a.socket.d/50-clusterd.conf": [*["ListenStream=8000"] * 2, "ListenStream=/tmp/a", "SocketMode=0660"],
        "cluster@a.service.d/50-clusterd.conf": ["EnvironmentFile=-/home/X/env", "TimeoutStopSec=15s"],
    }
    assert f"SourcePath={file}\n" in contents(out)["cluster@a.service.d/50-clusterd.conf"]


def test_user_units_are_the_same_but_for_their_reasons() -> None:
    """The service of a user differs from the system's in the directives that docs/rootless.md has a row for, alone."""
    told = (PROJECT / "docs" / "rootless.md").read_text()
    table = {key for row in re.findall(r"(?m)^\| (`.*?) \|", told) for key in re.findall(r"`(\w+)=", row)}
    system, user = (
        {line for line in (PROJECT / "units" / path).read_text().splitlines() if re.match(r"[A-Z]\w+=", line)}
        for path in ("cluster@.service", "user/cluster@.service")
    )
    differ = {line.partition("=")[0] for line in system ^ user}
    assert differ == table, f"in one and not in the other: {sorted(differ ^ table)}"


def test_what_confines_is_left_out_and_told(tmp_path: Path) -> None:
    """A value of [sandbox], [limits] or [credentials] that no directive can be made of costs its own line, no other,
    and never the sockets; each is told with its key and what to write."""
    (tmp_path / "a.toml").write_text(
        'listen = 80\n[sandbox]\nwrite = ["/srv/a"]\njit = "no"\n[limits]\nmemory = "lots"\ntasks = 100\n'
        '[credentials]\nx = "relative"\n'
    )
    out, said = generate(tmp_path, tmp_path)
    lines = contents(out)["cluster@a.service.d/50-clusterd.conf"].split("[Service]\n")[1].splitlines()
    assert lines == ["ReadWritePaths=-/srv/a", "TasksMax=100", "TimeoutStopSec=15s"]
    assert "cluster@a.socket.d/50-clusterd.conf" in contents(out)
    assert [line.split(": ", 2)[2] for line in said] == [
        "'sandbox.jit' has no effect on the unit: true or false, without quotes, ignoring",
        "'limits.memory' has no effect on the unit: write a number and its unit, K, M, G or T, such as \"512M\", "
        "ignoring",
        "'credentials' has no effect on the unit: a path is absolute: it begins with '/', ignoring",
    ]


def test_nothing_configured(tmp_path: Path) -> None:
    """Without the directory (removed, not purged) there is nothing to do and nothing to say."""
    out, said = generate(tmp_path, tmp_path / "gone")
    assert (contents(out), said) == ({}, [])


def test_readable_and_alone(tmp_path: Path) -> None:
    """Drop-ins are readable whatever the umask, and nothing is left beside the program (no __pycache__)."""
    copy = tmp_path / "share" / "clusterd"
    shutil.copytree(GENERATOR.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = set(copy.rglob("*"))
    (tmp_path / "a.toml").write_text("listen = 80\n")
    argv = [*PYTHON, str(copy / GENERATOR.name), str(tmp_path / "out"), "", "", str(tmp_path)]
    subprocess.run(argv, check=True, umask=0o077)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*.conf")} == {0o644}
    assert set(copy.rglob("*")) == before


def test_import_budget(tmp_path: Path) -> None:
    """It imports of clusterd the small modules only, no slow ones of the standard library, and nothing installed."""
    (tmp_path / "a.toml").write_text('listen = ["8000", "/run/x"]\nuser = "x"\n[stop]\ndrain-timeout = "5s"\n')
    program = (
        f"import sys; sys.path.insert(0, {str(PROJECT / 'service')!r}); from clusterd.generator import main; "
        f"main([{str(tmp_path)!r}, '', '', {str(tmp_path)!r}]); print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([*PYTHON, "-B", "-c", program], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    ours = {name for name in modules if name.startswith("clusterd")}
    assert ours == {
        "clusterd",
        "clusterd.config",
        "clusterd.generator",
        *(f"clusterd.config.{name}" for name in ALLOWED),
    }
    assert not SLOW & modules
    assert "site" not in modules


def test_time_budget(tmp_path: Path) -> None:
    """With twenty files it takes at most eight times what Python takes to do nothing: minima of interleaved runs.

    In processor time, with compiled modules as they are installed. A busy machine makes both more, and never less: it
    takes more runs there to find the minima.
    """
    service = tmp_path / "share"
    shutil.copytree(PROJECT / "service", service, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*PYTHON, "-m", "compileall", "-q", str(service)], check=True)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(20):
        (files / f"app{number}.toml").write_text(f'app = "a:b"\nlisten = {8000 + number}\n[reload]\nsoak = "1s"\n')
    nothing, whole = [], []
    for turn in range(100):
        if turn >= 12 and min(whole) <= 8 * min(nothing):
            break
        out = tmp_path / f"out{turn}"
        out.mkdir()
        nothing.append(spent([*PYTHON, "-c", "pass"]))
        whole.append(spent([*PYTHON, str(service / "clusterd" / GENERATOR.name), str(out), "", "", str(files)]))
    assert min(whole) <= 8 * min(nothing), f"{min(whole) * 1e3:.1f} ms, Python alone {min(nothing) * 1e3:.1f} ms"


def units(tmp_path: Path) -> Path:
    """The shipped units beside the drop-ins of the golden files, with a program that exists here."""
    directory = tmp_path / "units"
    out, _ = generate(tmp_path, GOLDEN / "etc")
    shutil.copytree(out, directory)
    for unit in (PROJECT / "units").glob("cluster*"):
        shutil.copy(unit, directory)
    for file in filter(Path.is_file, directory.rglob("*")):
        file.write_text(re.sub(r"(?m)^(Exec\w+=\+?)/usr/bin/clusterd", r"\1/bin/true", file.read_text()))
    return directory


def analyze(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    lacking(None if shutil.which("systemd-analyze") else "missing: systemd-analyze")
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, env=environment, timeout=HANG
    )


@pytest.mark.parametrize("name", ["hello", "full", "lenient", "cmd", "confined", "careless"])
def test_verify(tmp_path: Path, name: str) -> None:
    """systemd takes the units with the drop-ins, without a warning."""
    names = [f"cluster@{name}.service", f"cluster@{name}.socket", "cluster.target"]
    done = analyze(units(tmp_path), "verify", "--recursive-errors=yes", "--man=no", *names)
    said = [line for line in done.stderr.splitlines() if "cluster" in line]
    assert (done.returncode, said) == (0, [])


def test_verify_can_fail(tmp_path: Path) -> None:
    """The check above sees a wrong directive."""
    directory = units(tmp_path)
    (directory / "cluster@hello.service.d" / "x.conf").write_text("[Service]\nNonBloking=yes\n")
    done = analyze(directory, "verify", "--recursive-errors=yes", "--man=no", "cluster@hello.service")
    assert "NonBloking" in done.stderr


def test_exposure(tmp_path: Path) -> None:
    """The service's exposure, as `systemd-analyze security` counts it, is at most 1.6 with a dynamic user."""
    directory = units(tmp_path)
    done = analyze(directory, "security", "--offline=true", "--no-pager", "--threshold=16", "cluster@hello.service")
    assert done.returncode == 0, done.stdout


def test_directives_have_a_reason() -> None:
    """Each directive of the units is told of in docs/units.md, or has its comment right above it."""
    told = (PROJECT / "docs" / "units.md").read_text()
    plain = {"Description", "Documentation", "After", "WantedBy", "Also", "ExecStart", "Environment", "Backlog"}
    for unit in (PROJECT / "units").glob("cluster*"):
        above = ""
        for line in unit.read_text().splitlines():
            key = line.partition("=")[0]
            if re.fullmatch(r"[A-Z]\w+", key) and not above.startswith("#") and key not in plain:
                assert f"{key}=" in told, f"{unit.name}: {key}"
            above = line if line.startswith("#") or not re.match(r"[A-Z]", line) else above


def test_no_unit_ties_the_socket_to_the_service() -> None:
    """Neither a stop nor a restart of the service closes the slots."""
    service = (PROJECT / "units" / "cluster@.service").read_text()
    socket = (PROJECT / "units" / "cluster@.socket").read_text()
    directives = re.findall(
        r"(?m)^(?:Requires|BindsTo|PartOf|PropagatesStopTo|StopPropagatedFrom)=.*$", service + socket
    )
    assert directives == ["PartOf=cluster.target"]
    assert "PartOf=" not in socket
    assert "Wants=cluster@%i.socket" in service


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666], ids=oct)
@pytest.mark.parametrize("what", ["etc/a.toml", "etc"])
def test_what_others_may_write_gets_no_socket(tmp_path: Path, what: str, mode: int) -> None:
    """A file, or a directory of files, that others than its owner may change says nothing: it is told so."""
    etc = tmp_path / "etc"
    etc.mkdir(mode=0o755)
    (etc / "a.toml").write_text('app = "a:app"\nlisten = "127.0.0.1:8001"\n')
    (tmp_path / what).chmod(mode | (0o111 if what == "etc" else 0))
    out, said = generate(tmp_path, etc)
    assert contents(out) == {}
    found = oct(mode | (0o111 if what == "etc" else 0))[2:]
    path = tmp_path / what
    assert said == [
        f"clusterd-generator: {etc}/a.toml: mode 0{found} of '{path}', which others than its owner may write; it gets "
        "no socket, ignoring"
    ]
    path.chmod(0o755)
    assert len(contents(generate(tmp_path, etc)[0])) == 2
