"""The Varlink interface io.clusterd: its text, as clients introspect it, and what each method takes and asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

NAME = "io.clusterd"
SERVICE = "org.varlink.service"


class Rights(IntEnum):
    """What a peer may do; each includes those before."""

    NONE = 0
    READ = 1
    CHANGE = 2


@dataclass(frozen=True)
class Method:
    """`parameters` are all optional, each an object of strings, or one of TEXTS; `rights` is what the peer needs."""

    rights: Rights
    parameters: tuple[str, ...] = ()


MAX_REQUEST = 1 << 20
"""Bytes of a request."""

METHODS: dict[str, Method] = {
    "Status": Method(Rights.READ),
    "Changes": Method(Rights.CHANGE, ("profile",)),
    "Reload": Method(Rights.CHANGE, ("environment", "overlay", "tls")),
    "Rollback": Method(Rights.CHANGE),
    "Scale": Method(Rights.CHANGE, ("workers",)),
    "Send": Method(Rights.CHANGE, ("topic", "data", "worker")),
    "Listen": Method(Rights.CHANGE, ("topic",)),
    "Run": Method(Rights.CHANGE, ("task", "join")),
    "Stop": Method(Rights.CHANGE),
    "Upgrade": Method(Rights.CHANGE),
    "Try": Method(Rights.CHANGE, ("environment", "overlay", "tls", "profile")),
}

TEXTS = frozenset({"profile", "topic", "data", "worker", "task", "join", "workers"})
"""Parameters that are a string."""

ERRORS = ("Refused", "Returned", "Superseded", "Invalid", "RestartNeeded", "NotAllowed", "Stopping", "Busy", "NoTask")

TEXT = """\
# Asks and changes one application of clusterd. Root and the service's user may do everything, the group clusterd may
# call Status. Called with "more", the long methods tell their progress in replies that have no receipt (or report) yet.
interface io.clusterd

type Worker (
  worker: int,
  slot: ?int,
  generation: int,
  state: (starting, ready, spare, serving, draining, dead),
  pid: ?int,
  age: float,
  requests: ?int,
  in_flight: ?int,
  connections: ?int,
  beat: ?float,
  memory: int,
  cpu: float,
  restarts: int,
  last_end: ?string,
  last_end_at: ?float,
  status_text: ?string
)

type Generation (
  generation: int,
  state: (booting, up, parked, lost),
  mode: ?string,
  why: []string,
  zygote: ?int,
  twin: ?int,
  interface: ?string,
  engine: ?string,
  python: ?string,
  directory: ?string
)

type Rollout (
  number: int,
  kind: (start, reload, rollback, try),
  phase: string,
  generation: int
)

type Receipt (
  number: int,
  kind: string,
  outcome: (done, refused, returned, superseded, stopped),
  generation: ?int,
  workers: int,
  seconds: float,
  reason: ?string,
  gap: float,
  closed: int,
  websockets: int,
  cut: int,
  untold: int,
  drained: bool,
  text: string
)

type Master (
  pid: int,
  starts: int,
  since: float
)

type Slots (
  total: int,
  live: []int
)

type Going (
  number: int,
  pid: ?int,
  seconds: float
)

type Came (
  number: int,
  outcome: (done, failed, stopped),
  result: ?string,
  reason: ?string,
  seconds: float,
  age: float
)

type Task (
  task: string,
  schedule: string,
  run: ?Going,
  next: ?float,
  elsewhere: ?string,
  failures: int,
  last: ?Came
)

type Joined (
  bus: ?string,
  problem: ?string
)

type State (
  name: string,
  version: string,
  state: (starting, serving, reloading, degraded, stopping),
  summary: string,
  problem: ?string,
  profile: ?string,
  master: Master,
  generation: ?int,
  previous: ?int,
  wanted: int,
  workers: []Worker,
  generations: []Generation,
  slots: Slots,
  listen: []string,
  rollout: ?Rollout,
  receipt: ?Receipt,
  receipts: []Receipt,
  tasks: []Task,
  bus: ?Joined
)

type Progress (
  number: int,
  phase: string,
  ready: int,
  wanted: int,
  text: string
)

type Problem (
  file: ?string,
  key: ?string,
  found: ?string,
  expected: ?string,
  hint: ?string
)

type Change (
  key: string,
  old: ?string,
  new: ?string,
  applies: string,
  text: string
)

type Said (
  topic: string,
  data: string,
  from: ?int,
  to: ?int,
  host: ?string
)

# What goes on now.
method Status() -> (status: State)

# What a reload would change, and the command that brings it into effect if a reload does not. `profile` instead of the
# one that is chosen, "" for none.
method Changes(profile: ?string) -> (changes: []Change, how: string)

# Replaces every worker by one of the code and the file now on disk. `environment` is what a fresh process of the unit
# gets from systemd and takes the place of the one before; the variables of `overlay` go on top of it. `tls` has what is
# in the files of [tls], "certificate" and "key", where the caller can read them and the service cannot.
method Reload(environment: ?[string]string, overlay: ?[string]string, tls: ?[string]string) ->
  (progress: ?Progress, receipt: ?Receipt)

# Brings back the generation before, from memory.
method Rollback() -> (progress: ?Progress, receipt: ?Receipt)

# Has so many `workers`: "4", "+1", "-2", or "file" for as many as the file says. Answered when so many serve; or, with
# the `problem`, when they cannot yet.
method Scale(workers: string) -> (workers: int, serving: int, problem: ?string)

# Boots and checks the code now on disk without giving it a request, then drops it. `tls` is as for Reload,
# `profile` as for Changes.
method Try(environment: ?[string]string, overlay: ?[string]string, tls: ?[string]string, profile: ?string)
  -> (progress: ?Progress, report: ?Receipt)

# Says `data`, which is JSON, to every worker that listens to `topic`, or to `worker` (a number) alone. `heard` is by
# how many of them.
method Send(topic: string, data: string, worker: ?string) -> (heard: int)

# What is said under `topic`, until the caller leaves: only with "more". The first reply is empty, and says that what is
# said from then on is heard. `lost` messages before this one were dropped, because the caller did not read.
method Listen(topic: string) -> (message: ?Said, lost: ?int)

# Runs a task now, and waits until it has ended. While it runs already, that is Busy; with `join`, any text, that run is
# waited for. `result` is JSON; null when it is longer than 1 MiB. With "more" the first reply has the number, and
# whether it is another's run. Where another host runs it the outcome is "elsewhere", and nothing is run. With `join`
# that is said when it is certain, within a minute: before that, with "more", a reply with run 0 and the reason.
method Run(task: string, join: ?string) ->
  (run: int, joined: ?bool, outcome: ?(done, failed, stopped, elsewhere), result: ?string, reason: ?string)

# Makes room for a master of the files now on disk, once no rollout is under way: the connection is closed as it
# leaves. Refused when that one could not take over.
method Upgrade() -> ()

# Drains everything and leaves. With "more" the first reply comes at once; the service is gone when the keeper is.
method Stop() -> (keeper: int)

# The new generation did not become ready; nothing has changed.
error Refused (reason: string, detail: ?string)

# The new generation was committed, kept dying, and the one before was brought back.
error Returned (reason: string)

# A later reload, whose number this is, took the place of this one.
error Superseded (number: int)

# The file is not valid; nothing has changed.
error Invalid (problems: []Problem)

# The file asks for what a reload cannot change; nothing has changed.
error RestartNeeded (keys: []Change)

# The peer may not do that.
error NotAllowed (text: string)

# The service is stopping.
error Stopping ()

# It cannot be done now.
error Busy (text: string)

# The application has no task of that name, but these.
error NoTask (known: []string)
"""

SERVICE_TEXT = """\
# What every Varlink service answers.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)

error PermissionDenied ()

error ExpectedMore ()
"""
