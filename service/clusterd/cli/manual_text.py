"""The hand-written part of clusterd(8). manual.py puts it together with what the commands say of themselves."""

from __future__ import annotations

DESCRIPTION = """
**clusterd** runs a Python web application (ASGI or WSGI), or any program that takes its sockets from systemd, as a
cluster of worker processes on one machine. One TOML file describes one application: **/etc/clusterd/**_NAME_**.toml**
runs as the unit **cluster@**_NAME_**.service**, and its addresses are opened by systemd in
**cluster@**_NAME_**.socket**.

The daily work is systemd's: **systemctl start**, **stop**, **restart**, **reload**, **enable** and **status**
**cluster@**_NAME_, and **journalctl -u cluster@**_NAME_. **clusterd** adds what systemd has no verb for, and
**clusterd run** serves an application in the foreground without systemd, root or a file.

A user's own applications are in **~/.config/clusterd/**, and are run by the systemd that every user has: **systemctl
--user**, **journalctl --user** and **clusterd --user** in place of the same without. They start at boot for a user with
lingering (**loginctl enable-linger**). Ports below 1024 and other accounts are the system's.

Words used throughout: a **worker** is a process that serves; a **slot** is one of the listening sockets that systemd
holds for an address, and outlives every worker; a **generation** is the code and configuration that one reload
brought; a **zygote** is the process that has imported a generation and forks its workers; to **drain** is to accept
nothing new and to finish what was begun.
"""

RELOAD = """
A reload boots the complete new generation beside the old one: it reads the file, imports the application under its
own interpreter, starts every worker, lets each run its lifespan startup and its health check, and waits for
**reload.soak**. Until then no new worker accepts a connection. Then the new workers accept and the old ones drain.
Any failure before that moment refuses the reload: the reason is printed, the exit status is 1, and nothing has
changed.

The generation that was replaced stays in memory. **clusterd rollback** brings it back, and so does clusterd by itself
when the new one keeps dying within **reload.watch**; both work when its files are gone from the disk.

With **reload.surge** a number, so many workers are replaced at a time, and a failure undoes what was done.

A second reload supersedes the first, which then ends with status 3. A setting that cannot change while the
application runs (**user**, **group**, **listen**, **slots**) refuses the reload in words; **clusterd check** says so
beforehand.
"""

SIGNALS = [
    ("**SIGHUP**, **SIGUSR2**", "to the master: reload. The outcome is in the journal and in **clusterd status**."),
    ("**SIGTTIN**, **SIGTTOU**", "to the master: one worker more, one fewer, as **clusterd scale** does."),
    (
        "**SIGUSR1**",
        "to the master: make room for a new one, of the version now installed, as **clusterd upgrade** does.",
    ),
    (
        "**SIGTERM**, **SIGINT**",
        "to the master: stop. Workers drain for at most **stop.drain-timeout**. Once more to **clusterd run**, half a "
        "second later or more: what is in flight is cut off.",
    ),
]

FILES = [
    ("/etc/clusterd/_NAME_.toml", "the application; see cluster.toml(5)"),
    ("~/.config/clusterd/_NAME_.toml", "the same of a user's own, with --user"),
    ("/etc/clusterd/_NAME_.profile", "the profile it runs with; without it, none"),
    ("/usr/share/clusterd/cluster.schema.json", "the JSON Schema of the applications' files"),
    ("/run/clusterd/_NAME_/control", "the control socket of the running instance (Varlink, interface io.clusterd)"),
    ("/run/user/_UID_/clusterd/_NAME_/control", "the same of a user's own"),
]

ENVIRONMENT = [
    ("**NO_COLOR**, **TERM**", "With NO_COLOR set, with TERM=dumb, and when not on a terminal, output is plain lines."),
    (
        "**XDG_CONFIG_HOME**, **XDG_RUNTIME_DIR**",
        "With --user: where the files and the running instances' directories are, below **clusterd**. Without them "
        "~/.config and /run/user/_UID_.",
    ),
    ("**VIRTUAL_ENV**", "The interpreter that **clusterd run** uses without --python."),
    (
        "**CLUSTERD_INSTANCE**",
        "Set in the unit. **clusterd reload** of that instance then sends its whole environment, which systemd has "
        "just read anew, to the new generation.",
    ),
]

EXAMPLES = [
    (
        "clusterd run hello:app --workers 4",
        "Serve the object **app** of the module **hello** in this directory on 127.0.0.1:8000 until Ctrl-C, which "
        "drains the workers and exits 0.",
    ),
    (
        "cd /srv/hello && clusterd init",
        "Look at the application there, without running it, and write /etc/clusterd/hello.toml.",
    ),
    (
        "clusterd check hello && clusterd start hello",
        "Print every problem of /etc/clusterd/hello.toml; when there is none, start the application. Ends when the "
        "workers serve, or with the reason why they do not.",
    ),
    (
        "clusterd try hello && systemctl reload cluster@hello",
        "In a pipeline: boot the new code without traffic, and only if it would be accepted replace the workers.",
    ),
    (
        "clusterd --user start hello && systemctl --user enable cluster@hello",
        "Start an application of one's own, without root, now and at each boot.",
    ),
    (
        "clusterd reload hello --profile production",
        "Lay **[profile.production]** of the file over it and replace the workers; remembered until another is chosen.",
    ),
    (
        "clusterd rollback hello",
        "Bring back the generation before the last reload, from memory.",
    ),
    (
        "clusterd task hello run purge",
        "Call the function of **[task.purge]** now, in a process of its own, and print what it returned.",
    ),
    (
        "clusterd status --json hello",
        "The whole state as one JSON object, for monitoring.",
    ),
    (
        "systemctl reload 'cluster@*.service'",
        "Reload every running application; the exit status is not 0 if one was refused.",
    ),
]

CLIENTS = [
    (
        "**reload**, **rollback**",
        "Requests are answered throughout. A kept connection gets **Connection: close** with its next answer from the "
        "old worker and continues, reconnected, with a new one. Idle connections are closed after **reload.linger**, "
        "WebSockets with code 1012. Requests that take longer than **reload.drain-timeout** are cut.",
    ),
    ("a refused **reload**, **try**, **check**", "Nothing."),
    (
        "a worker dies",
        "The requests it had accepted are reset. Connections that still wait in its slot's queue stay there and are "
        "answered by its successor.",
    ),
    ("the master or the keeper dies", "Nothing: the workers serve on, and the next master adopts them."),
    (
        "**systemctl restart**",
        "Requests in flight are answered within **stop.drain-timeout**. New connections wait in the queue until the "
        "new workers serve; none is refused.",
    ),
    (
        "**systemctl stop cluster@**_NAME_",
        "Requests in flight are answered within **stop.drain-timeout**. The socket goes on listening, and the next "
        "connection starts the application again.",
    ),
    ("**clusterd stop**", "As before, and then connections are refused."),
    (
        "a start that fails",
        "Once systemd has restarted the service after the failure, clients get 503 with Retry-After, until the "
        "application boots: clusterd tries again by itself, at growing intervals.",
    ),
]
