"""`clusterd run`: the same master without systemd, root or a file; ended, reloaded and killed in every way."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.config.places import MAX_RUNTIME
from tests.clients import asking
from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground, free_port, gone, unread, zombies
from tests.worker.certificates import make


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground() as made:
        yield made


def ended(run: Foreground, everything: list[int]) -> None:
    """Nothing of it is left: no process, no listener, no runtime file of its own."""
    assert gone(everything) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", run.port), timeout=HANG)


def test_ctrl_c_drains(run: Foreground) -> None:
    """Ctrl-C, which a terminal sends to the whole process group, answers what is in flight and exits 0."""
    run.stop = "20s"
    run.start(terminal=True)
    everything = run.everything()
    held = run.directory / "held"
    held.touch()
    with socket.create_connection(("127.0.0.1", run.port)) as client:
        client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        run.wait_for("the request to be read", lambda: unread(run.port) == 0)
        os.write(run.terminal, b"\x03")
        run.wait_for("the worker to drain", lambda: {w["state"] for w in run.status()["workers"]} == {"draining"})
        held.unlink()
        client.settimeout(HANG)
        # Whether the answer says `Connection: close` depends on whether the worker has its order by now: what it does
        # from then on is tests/worker/test_engines.py's.
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")
    assert run.wait() == 0
    ended(run, everything)


def test_longer_is_asked_for_at_once(run: Foreground) -> None:
    """Whoever listens as systemd does is asked for more time as a start, a reload and a stop begin, not only with the
    next sign of life: what it grants may be over by then."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(run.environment.setdefault("NOTIFY_SOCKET", str(run.directory / "notify")))
        notify.settimeout(HANG)

        def said(line: str) -> list[str]:
            """All that is said up to this line."""
            found: list[str] = []
            while not any(each.startswith(line) for each in found):
                found += notify.recv(4096).decode().splitlines()
            return [each.partition("=")[0] for each in found]

        run.start(wait=False)
        assert "EXTEND_TIMEOUT_USEC" in said("READY=1")
        assert run.clusterd("reload").returncode == 0
        assert "EXTEND_TIMEOUT_USEC" in said("STATUS=2/2 workers, generation 2")
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        said("EXTEND_TIMEOUT_USEC")
        assert run.wait() == 0


def test_options_win_over_the_file(run: Foreground) -> None:
    """What is given beside a file is in force, and still after a reload that takes the file's other keys anew."""
    port = free_port()
    file = run.configure()
    options = ["--workers", "1", "--listen", f"127.0.0.1:{port}", "--name", "shop", "--runtime", str(run.runtime)]
    run.start([*CLUSTERD, "run", str(file), *options])
    run.deploy("goodbye")
    file.write_text(file.read_text().replace('watch = "1s"', 'watch = "2s"'))
    assert run.clusterd("reload").returncode == 0
    status = run.status()
    assert (status["name"], status["wanted"], status["listen"]) == ("shop", 1, [f"127.0.0.1:{port}"])
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"goodbye" in client.makefile("rb").read()


def test_sigterm_drains(run: Foreground) -> None:
    """SIGTERM ends it with status 0 and leaves nothing; who keeps a connection and asks on does not hold it up."""
    run.stop = "1h"
    run.start()
    everything = run.everything()
    with asking(("127.0.0.1", run.port), kept=2, single=0) as asked:
        assert run.process is not None
        run.process.terminate()
        assert run.wait() == 0
    assert asked.answers
    ended(run, everything)


def test_sighup_reloads(run: Foreground) -> None:
    """SIGHUP replaces every worker by the code now on disk, and nothing is lost."""
    run.start()
    before = run.pids()
    with asking(("127.0.0.1", run.port)) as asked:
        for number in range(2):
            run.deploy(f"release {number}")
            assert run.process is not None
            run.process.send_signal(signal.SIGHUP)
            run.wait_for("the new code", lambda n=number: run.status()["generation"] == n + 2)
            run.wait_for("it to be done", lambda: run.status()["state"] == "serving")
            run.wait_for("an answer of it", lambda n=number: asked.answers[f"release {n}"])
    asked.assert_nothing_lost()
    assert not set(run.pids().values()) & set(before.values())


def test_reload_by_command(run: Foreground) -> None:
    """`clusterd reload RUNTIME/control` reloads it, and refuses broken code with the traceback and status 1."""
    run.start()
    run.deploy("second")
    done = run.clusterd("reload")
    assert done.returncode == 0 and "2/2" in done.stdout
    before = run.pids()
    run.deploy("third", "raise RuntimeError('not today')\n")
    done = run.clusterd("reload")
    assert done.returncode == 1
    assert "not today" in done.stderr and "Traceback" in done.stderr
    assert run.pids() == before


def test_master_killed(run: Foreground) -> None:
    """The master is SIGKILLed under load, three times: nothing lost, the same workers; then a reload works."""
    run.start()
    before = run.pids()
    with asking(("127.0.0.1", run.port)) as asked:
        for _ in range(3):
            run.kill_master()
            assert run.pids() == before
        run.deploy("afterwards")
        assert run.clusterd("reload").returncode == 0
        run.wait_for("an answer of it", lambda: asked.answers["afterwards"])
    asked.assert_nothing_lost()
    assert not set(run.pids().values()) & set(before.values())
    run.wait_for("every process to be accounted for", run.accounted_for)


def test_keeper_killed(run: Foreground) -> None:
    """Whoever waited for `clusterd run` is gone with its keeper: everything ends, nothing is orphaned."""
    run.start()
    everything = run.everything()
    assert run.process is not None
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    ended(run, everything)


def test_keeper_and_master_killed(run: Foreground) -> None:
    """With both gone at once every worker sees the end of its channel, drains and leaves."""
    run.start()
    everything = run.everything()
    assert run.process is not None
    for pid in (run.process.pid, run.status()["master"]["pid"]):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    ended(run, everything)


def test_broken_code(run: Foreground) -> None:
    """A first start with broken code exits non-zero, the reason and the traceback on stderr, and leaves nothing."""
    run.deploy("x", "import nowhere_to_be_found\n")
    run.start(wait=False)
    assert run.wait() == 1
    assert "ModuleNotFoundError" in run.said() and "nowhere_to_be_found" in run.said() and "hello.py" in run.said()
    ended(run, [])


def test_port_in_use(run: Foreground) -> None:
    """A port another program listens on is named in one line, and the exit status is not 0."""
    with socket.create_server(("127.0.0.1", run.port)):
        run.start(wait=False)
        assert run.wait() == 1
    said = run.said()
    assert f"127.0.0.1:{run.port}" in said and "in use" in said and "Traceback" not in said


@pytest.mark.parametrize("short", [True, False], ids=["short", "too long for sockets"])
def test_temporary_runtime(run: Foreground, short: bool) -> None:
    """Without --runtime the directory is a private one that is removed at the end, also after a master was killed: in
    TMPDIR, or elsewhere where the paths of sockets would be too long."""
    temporary = run.directory / ("t" if short else "t" * MAX_RUNTIME)
    temporary.mkdir()
    command = [*CLUSTERD, "run", str(run.configure())]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    environment.pop("PYTHONPATH", None)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            said = ""
            while "control socket" not in said:
                said = process.stderr.readline().decode()
            own = Path(said.partition("(control socket ")[2].strip().removesuffix("/control)"))
            assert own.parent == (temporary if short else Path("/tmp"))
            assert own.stat().st_mode & 0o777 == 0o700
            run.runtime = own
            run.signal_master(signal.SIGKILL)
            run.wait_for("another master", lambda: run.status()["state"] == "serving")
        finally:
            process.terminate()
            process.wait(HANG)
    assert process.returncode == 0
    assert list(temporary.iterdir()) == [] and not own.exists()


def test_unix_socket(tmp_path: Path) -> None:
    """A UNIX socket is served, reloaded without loss, and its path is gone at the end."""
    path = tmp_path / "hello.sock"
    with Foreground(listen=[str(path)]) as run:
        run.start()
        with asking(str(path)) as asked:
            run.deploy("second")
            assert run.clusterd("reload").returncode == 0
            run.wait_for("an answer of it", lambda: asked.answers["second"])
        asked.assert_nothing_lost()
        assert run.process is not None
        run.process.terminate()
        assert run.wait() == 0
        assert not path.exists()


def test_nobody_is_left_as_a_zombie(run: Foreground) -> None:
    """Zygotes of generations that are gone are reaped by the master that killed them."""
    run.start()
    for _ in range(3):
        assert run.clusterd("reload").returncode == 0
    run.wait_for("the dead to be reaped", lambda: zombies(run.status()["master"]["pid"]) == [])


def test_zygote_and_twin_die_at_once(run: Foreground) -> None:
    """Both gone before the master has looked: the code is imported again, and a dead worker is replaced."""
    run.start()
    run.wait_for("a twin", lambda: run.status()["generations"][0]["twin"])
    status = run.status()
    master, (generation,) = status["master"]["pid"], status["generations"]
    os.kill(master, signal.SIGSTOP)
    for pid in (generation["zygote"], generation["twin"]):
        os.kill(pid, signal.SIGKILL)
    gone([generation["zygote"], generation["twin"]])
    os.kill(master, signal.SIGCONT)
    run.wait_for("another zygote", lambda: run.status()["generations"][0]["zygote"] not in (None, generation["zygote"]))
    victim = run.pids()[0]
    os.kill(victim, signal.SIGKILL)
    run.wait_for("the worker to be replaced", lambda: run.at_rest(gone=victim))


def test_https(run: Foreground, tmp_path: Path) -> None:
    """--tls-certificate and --tls-key: HTTPS; a reload takes the certificate that is there then."""
    pair = make(tmp_path, "site", 1)
    run.start([*CLUSTERD, "run", "hello:app", "--listen", f"127.0.0.1:{run.port}", "--workers", "1", "--python",
               sys.executable, "--directory", str(run.directory), "--runtime", str(run.runtime),
               "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)])  # fmt: skip

    def served(trusted: ssl.SSLContext) -> bool:
        with contextlib.suppress(ssl.SSLError), socket.create_connection(("127.0.0.1", run.port), timeout=HANG) as sock:
            with trusted.wrap_socket(sock, server_hostname="localhost") as secure:
                secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return secure.recv(65536).startswith(b"HTTP/1.1 200")
        return False

    before = ssl.create_default_context(cafile=str(pair.certificate))
    assert served(before)
    after = ssl.create_default_context(cafile=str(make(tmp_path, "site", 2).certificate))
    assert served(before) and not served(after)
    assert run.clusterd("reload").returncode == 0
    assert served(after) and not served(before)
