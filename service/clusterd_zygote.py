"""The program the master starts as `PYTHON LIB/clusterd_zygote.py FD`: a zygote, under the application's interpreter.

FD                 a zygote; FD is its end of the channel to the master
resume MEMFD       a zygote that imported the application, found that it cannot be forked, left it behind by exec
worker MEMFD       a worker of such a zygote, which imports the application for itself
"""

from __future__ import annotations

import json
import os
import sys

if sys.version_info < (3, 10):  # what follows would be a syntax error; so this file has nothing that is new
    found = f"{sys.executable} is Python {'.'.join(map(str, sys.version_info[:3]))}"
    reason = f"{found}, too old: make the virtual environment with 3.10 or newer"
    os.write(int(sys.argv[-1]), json.dumps({"event": "failed", "reason": reason, "traceback": ""}).encode() + b"\0")
    sys.exit(1)

# What lies beside this file is wanted, but must not hide a module of the application: our package is loaded while it is
# first on the path, which then goes last, and the application's directory takes the first place once it is known.
LIB = os.path.dirname(os.path.abspath(__file__))
if sys.path[:1] == [LIB]:  # not so under PYTHONSAFEPATH
    del sys.path[0]
sys.path.insert(0, LIB)

from clusterd.worker import zygote  # noqa: E402

sys.path.remove(LIB)
sys.path.append(LIB)

if __name__ == "__main__":
    zygote.main(__file__, sys.argv[1:])
