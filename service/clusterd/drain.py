"""`clusterd [--user] drain NAME`, what ExecStop= runs: ask the master to stop, and return when the service is gone.

Not left to systemd's SIGTERM, because it waits only for a main process that is its own child, and the master is the
keeper's: it would kill the workers at once, with what they have in flight (seen on 252 and 257).
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from clusterd.config.names import is_name
from clusterd.config.places import SYSTEM, of_user
from clusterd.shell.client import VarlinkError, call
from clusterd.worker.wire import WireError

ANSWER = 2.0
"""Seconds a master may take for a reply, which it gives in milliseconds, before it is killed: that costs nothing, and
systemd's SIGKILL at the end of TimeoutStopSec= would cost what the workers have in flight."""
SUCCESSOR = 6.0
"""Seconds for the next one, which may only be starting, on a machine that is at its limit: with its predecessor's it is
less than what TimeoutStopSec= has beyond the drain."""
LEAVING = 5.0
"""Seconds the keeper has to exit once the master is gone."""


def main(name: str, *, user: bool = False) -> int:
    """Returns 0 when there is nothing left to wait for, 1 when the master cannot be asked: systemd then kills."""
    if not is_name(name):
        print(f"clusterd: '{name}' is no name of an application", file=sys.stderr)
        return 2
    place = of_user(os.environ, os.getuid()) if user else SYSTEM
    control = os.path.join(os.environ.get("RUNTIME_DIRECTORY", f"{place.runtime}/{name}").partition(":")[0], "control")
    master, keeper = _processes(os.environ.get("MAINPID", ""))
    patience = ANSWER
    while True:
        heard = False
        try:
            for reply in call(control, "Stop", more=True, timeout=patience):
                heard = True
                keeper = _opened(int(reply["keeper"])) if keeper is None else keeper
            break
        except TimeoutError:
            if heard:
                continue  # it drains, and may take longer: asked again, it says again that it is there
            if master is None:
                break  # the one after it does not answer either: it is the keeper that hangs
            print(f"clusterd: {name}: the master does not answer within {ANSWER:g} s: killing it", file=sys.stderr)
            _kill(master)
            master, patience = None, SUCCESSOR
        except WireError:
            # The master died in the middle: the next one has the same order, unless that was the end. The keeper may be
            # one that has been replaced meanwhile.
            if keeper is not None and _gone(keeper, 0):
                keeper = None
        except ConnectionRefusedError:
            heard = True  # nobody has the socket any more: the keeper is on its way out
            break
        except FileNotFoundError:
            return 0
        except (OSError, VarlinkError) as e:
            print(f"clusterd: {name}: the master cannot be asked to drain: {e}", file=sys.stderr)
            return 1
    last = keeper if keeper is not None else master  # a master without a keeper, which had just died, is the last
    if last is not None and not _gone(last, LEAVING if heard else 0):
        # Without it, and a master, the workers have nobody who wants them: they drain and leave.
        _kill(last)
    return 0


def _processes(main: str) -> tuple[int | None, int | None]:
    """Descriptors of systemd's main process and, when that is the master, of its parent, the keeper.

    Unless that is our own parent, the manager: it has a master whose first keeper died, whose next one is its child.
    """
    try:
        master = os.pidfd_open(int(main))
        parent = int(Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1])
    except (ValueError, OSError):
        return None, None
    return master, _opened(parent) if parent not in (0, 1, os.getppid()) else None


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _gone(process: int, seconds: float) -> bool:
    return bool(select.select([process], [], [], seconds)[0])


def _kill(process: int) -> None:
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
