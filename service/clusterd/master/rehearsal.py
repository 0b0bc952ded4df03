"""Whether this installation of clusterd could take over from a master that runs: asked before that one leaves."""

from __future__ import annotations

import json
import sys
import time

from clusterd.core import machine
from clusterd.core.events import Adopted
from clusterd.master.ledger import Foreign, Ledger
from clusterd.shell.memory import State

COMMAND = "--rehearse"


def main(fd: int) -> int:
    """`clusterd master --rehearse FD`: read the state in memfd FD and decide upon it, as a new master does first.

    Nothing is done. Returns the exit status; what is in the way is the last line of standard output.
    """
    try:
        saved = State(fd).read()
        if saved is None:
            raise ValueError("there is no state yet")
        ledger = Ledger.from_json(json.loads(saved))
        ledger.cluster, _ = machine.step(ledger.cluster, Adopted(), time.monotonic())
        ledger.to_json()
    except Foreign as e:
        print(f"{e}: restart the service, no connection is refused by that", file=sys.stdout)
        return 1
    except Exception as e:
        print(f"it cannot read what this master would leave to it: {type(e).__name__}: {e}", file=sys.stdout)
        return 1
    return 0
