"""`clusterd drain NAME`, what ExecStop= runs: ask the master to stop, and return when the service is gone.

Not left to systemd's SIGTERM, because it waits only for a main process that is its own child, and the master is the
keeper's: it would kill the workers at once, with what they have in flight (seen on 252 and 257).
"""

from __future__ import annotations

import os
import select
import sys

from clusterd.config.names import is_name
from clusterd.shell.client import VarlinkError, call
from clusterd.worker.wire import WireError

LEAVING = 5.0
"""Seconds the keeper has to exit once the master is gone."""


def main(name: str) -> int:
    """Returns 0 when there is nothing left to wait for, 1 when the master cannot be asked: systemd then kills."""
    if not is_name(name):
        print(f"clusterd: '{name}' is no name of an application", file=sys.stderr)
        return 2
    control = os.path.join(os.environ.get("RUNTIME_DIRECTORY", f"/run/clusterd/{name}").partition(":")[0], "control")
    keeper: int | None = None
    while keeper is None or _alive(keeper):
        try:
            for reply in call(control, "Stop", more=True):
                keeper = os.pidfd_open(int(reply["keeper"])) if keeper is None else keeper
            break
        except WireError:
            continue  # the master died in the middle: the next one has the same order
        except (FileNotFoundError, ProcessLookupError):
            return 0
        except (OSError, VarlinkError) as e:
            print(f"clusterd: {name}: the master cannot be asked to drain: {e}", file=sys.stderr)
            return 1
    if keeper is not None:
        select.select([keeper], [], [], LEAVING)
    return 0


def _alive(keeper: int) -> bool:
    return not select.select([keeper], [], [], 0)[0]
