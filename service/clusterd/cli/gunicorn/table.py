"""Every setting of gunicorn, by its name: the options it has on the command line, and what becomes of it here.

The names and options are those of its documentation, 20.0 to 27.0; a test compares them with what it says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Takes = Literal["value", "flag", "off", "list", "optional"]
"""What its option takes: a value, nothing (then True, or False), a value each time, or a value that may be left out."""


@dataclass(frozen=True)
class Row:
    """`why`: why it is not wanted here, and what is in its place; "" where carry.py has something to say of it."""

    why: str = ""
    options: tuple[str, ...] = ()
    takes: Takes = "value"
    silent: tuple[object, ...] = ()
    """Values that ask for nothing, so that nothing is said of them."""


_JOURNAL = "the journal takes what workers write: journalctl -u cluster@NAME"
_LOGGING = "logging is the application's own: logging.config.dictConfig() in it; the journal takes what it writes"
_FIGURES = "not in this release: 'clusterd status --json' has figures for a collector to ask for"
_STRICT = "how requests are read is the engine's"
_DIRTY = "clusterd has workers of one kind: run a task queue (Celery, RQ, Dramatiq) as a service beside it"
_START = "put it into the module, which is imported once a generation, or into the lifespan start-up of an ASGI one"
_WORKER = "os.register_at_fork(after_in_child=...) in the application, or its lifespan start-up, does it in each worker"
_WORKER_END = "atexit in the application, or its lifespan shutdown, does it in each worker"
_EVENT = "the journal has an entry for each such event: journalctl -u cluster@NAME CLUSTERD_WORKER=N"
_REQUEST = "a middleware of the application sees each request"
_UNIT = "the unit has it: 'systemctl edit cluster@NAME.service'"
_H2 = 'the engine has it; http.version = "2" and engine = "granian" speak HTTP/2'
_NO_CLIENT = "certificates of clients are not looked at in this release: let a proxy in front do it"


def _hook(why: str) -> Row:
    return Row(why)


TABLE: Mapping[str, Row] = {
    "config": Row(options=("-c", "--config")),
    "wsgi_app": Row(),
    "bind": Row(options=("-b", "--bind"), takes="list"),
    "backlog": Row("systemd opens the sockets, with 4096", ("--backlog",)),
    "workers": Row(options=("-w", "--workers")),
    "worker_class": Row(options=("-k", "--worker-class")),
    "threads": Row(options=("--threads",)),
    "worker_connections": Row(options=("--worker-connections",)),
    "max_requests": Row(options=("--max-requests",), silent=(0,)),
    "max_requests_jitter": Row(options=("--max-requests-jitter",), silent=(0,)),
    "timeout": Row(options=("-t", "--timeout")),
    "graceful_timeout": Row(options=("--graceful-timeout",)),
    "keepalive": Row(options=("--keep-alive",)),
    "limit_request_line": Row(
        "http.max-header-size is the nearest: line and headers together", ("--limit-request-line",)
    ),
    "limit_request_fields": Row("the engine has a limit of its own", ("--limit-request-fields",)),
    "limit_request_field_size": Row(
        "http.max-header-size is the nearest: line and headers together",
        ("--limit-request-field_size", "--limit-request-field-size"),
    ),
    "reload": Row(
        "files are not watched: 'systemctl reload cluster@NAME' takes the code now on disk", ("--reload",), "flag",
        (False,),
    ),
    "reload_engine": Row("files are not watched", ("--reload-engine",)),
    "reload_extra_files": Row("files are not watched", ("--reload-extra-file",), "list", ([],)),
    "spew": Row("for debugging alone: sys.settrace() in the application", ("--spew",), "flag", (False,)),
    "check_config": Row("'clusterd check' and 'clusterd try' do it", ("--check-config",), "flag", (False,)),
    "print_config": Row("'clusterd check' does it", ("--print-config",), "flag", (False,)),
    "preload_app": Row(options=("--preload",), takes="flag"),
    "sendfile": Row("how files are sent is the engine's", ("--no-sendfile",), "off"),
    "reuse_port": Row("each worker has its own socket of the address as it is", ("--reuse-port",), "flag", (False,)),
    "chdir": Row(options=("--chdir",)),
    "daemon": Row("systemd runs it in the background", ("-D", "--daemon"), "flag", (False,)),
    "raw_env": Row(options=("-e", "--env"), takes="list"),
    "pidfile": Row(
        "systemd knows the processes: 'systemctl reload' and 'clusterd status' need no file", ("-p", "--pid"),
        silent=(None,),
    ),
    "worker_tmp_dir": Row("a worker's life is not told by a file", ("--worker-tmp-dir",), silent=(None,)),
    "user": Row(options=("-u", "--user")),
    "group": Row(options=("-g", "--group")),
    "umask": Row("UMask=: " + _UNIT, ("-m", "--umask"), silent=(0, "0")),
    "initgroups": Row("systemd gives the account all its groups", ("--initgroups",), "flag", (False,)),
    "tmp_upload_dir": Row("the service has a /tmp of its own; TMPDIR in [env] names another", silent=(None,)),
    "secure_scheme_headers": Row("X-Forwarded-Proto is what is believed of a trusted peer: have the proxy send it"),
    "forwarded_allow_ips": Row(options=("--forwarded-allow-ips",)),
    "accesslog": Row(options=("--access-logfile",)),
    "disable_redirect_access_to_syslog": Row(_JOURNAL, ("--disable-redirect-access-to-syslog",), "flag", (False,)),
    "access_log_format": Row("the access log has the engine's form", ("--access-logformat",)),
    "errorlog": Row(_JOURNAL, ("--error-logfile", "--log-file"), silent=("-",)),
    "loglevel": Row(options=("--log-level",)),
    "capture_output": Row("it is always so: " + _JOURNAL, ("--capture-output",), "flag", (False,)),
    "logger_class": Row(_LOGGING, ("--logger-class",)),
    "logconfig": Row(_LOGGING, ("--log-config",), silent=(None,)),
    "logconfig_dict": Row(_LOGGING, silent=({},)),
    "logconfig_json": Row(_LOGGING, ("--log-config-json",), silent=(None,)),
    "syslog_addr": Row(_JOURNAL, ("--log-syslog-to",)),
    "syslog": Row(_JOURNAL + "; journald hands on to a syslog", ("--log-syslog",), "flag", (False,)),
    "syslog_prefix": Row(_JOURNAL, ("--log-syslog-prefix",), silent=(None,)),
    "syslog_facility": Row(_JOURNAL, ("--log-syslog-facility",)),
    "enable_stdio_inheritance": Row("it is always so: " + _JOURNAL, ("-R", "--enable-stdio-inheritance"), "flag",
                                    (False,)),
    "statsd_host": Row(_FIGURES, ("--statsd-host",), silent=(None,)),
    "dogstatsd_tags": Row(_FIGURES, ("--dogstatsd-tags",), silent=("",)),
    "statsd_prefix": Row(_FIGURES, ("--statsd-prefix",), silent=("",)),
    "enable_backlog_metric": Row(_FIGURES, ("--enable-backlog-metric",), "flag", (False,)),
    "proc_name": Row("processes are named after the file: NAME.toml", ("-n", "--name"), silent=(None,)),
    "default_proc_name": Row("processes are named after the file: NAME.toml"),
    "pythonpath": Row(options=("--pythonpath",)),
    "paste": Row(
        "write a module of two lines: app = paste.deploy.loadapp(\"config:/path/to.ini\")", ("--paste", "--paster"),
        silent=(None,),
    ),
    "on_starting": _hook(_START),
    "on_reload": _hook(_START + "; a reload imports it anew"),
    "when_ready": _hook("'systemctl start' and 'clusterd start' end when the workers serve: do it after them"),
    "pre_fork": _hook(_WORKER),
    "post_fork": _hook(_WORKER),
    "post_worker_init": _hook(_WORKER),
    "worker_int": _hook(_WORKER_END),
    "worker_abort": _hook("no worker is aborted for a slow request"),
    "pre_exec": _hook("an upgrade of clusterd leaves the workers as they are"),
    "pre_request": _hook(_REQUEST),
    "post_request": _hook(_REQUEST),
    "child_exit": _hook(_EVENT),
    "worker_exit": _hook(_WORKER_END),
    "nworkers_changed": _hook(_EVENT),
    "on_exit": _hook("ExecStopPost=: " + _UNIT),
    "ssl_context": _hook("[tls] has certificate, key and minimum-version"),
    "proxy_protocol": Row(
        "the PROXY protocol is not spoken: have the proxy send X-Forwarded-For, and see http.forwarded-allow-ips",
        ("--proxy-protocol",), "optional", ("off", False),
    ),
    "proxy_allow_ips": Row("the PROXY protocol is not spoken", ("--proxy-allow-from",)),
    "protocol": Row("HTTP is spoken, not uwsgi: nginx's proxy_pass in place of uwsgi_pass", ("--protocol",),
                    silent=("http",)),
    "uwsgi_allow_ips": Row("HTTP is spoken, not uwsgi", ("--uwsgi-allow-from",)),
    "keyfile": Row(options=("--keyfile",)),
    "certfile": Row(options=("--certfile",)),
    "ssl_version": Row("TLS 1.2 is the oldest spoken; tls.minimum-version = \"1.3\" for the newest alone",
                       ("--ssl-version",)),
    "cert_reqs": Row(_NO_CLIENT, ("--cert-reqs",), silent=(0, "0")),
    "ca_certs": Row(_NO_CLIENT, ("--ca-certs",), silent=(None,)),
    "suppress_ragged_eofs": Row("the engine has it", ("--suppress-ragged-eofs",), "flag"),
    "do_handshake_on_connect": Row("the engine has it", ("--do-handshake-on-connect",), "flag", (False,)),
    "ciphers": Row("those of OpenSSL as the system has set it", ("--ciphers",), silent=(None,)),
    "http_protocols": Row(_H2, ("--http-protocols",), silent=("h1",)),
    "http2_cleartext": Row(_H2, ("--http2-cleartext",), silent=("off", False)),
    "http2_max_concurrent_streams": Row(_H2, ("--http2-max-concurrent-streams",)),
    "http2_initial_window_size": Row(_H2, ("--http2-initial-window-size",)),
    "http2_max_frame_size": Row(_H2, ("--http2-max-frame-size",)),
    "http2_max_header_list_size": Row(_H2, ("--http2-max-header-list-size",)),
    "raw_paste_global_conf": Row("a Paste file is loaded by the application's module", ("--paste-global",), "list",
                                 ([],)),
    "permit_obsolete_folding": Row(_STRICT, ("--permit-obsolete-folding",), "flag", (False,)),
    "strip_header_spaces": Row(_STRICT, ("--strip-header-spaces",), "flag", (False,)),
    "permit_unconventional_http_method": Row(_STRICT, ("--permit-unconventional-http-method",), "flag", (False,)),
    "permit_unconventional_http_version": Row(_STRICT, ("--permit-unconventional-http-version",), "flag", (False,)),
    "casefold_http_method": Row(_STRICT, ("--casefold-http-method",), "flag", (False,)),
    "forwarder_headers": Row("no header says SCRIPT_NAME, http.root-path does", ("--forwarder-headers",)),
    "header_map": Row(_STRICT, ("--header-map",), silent=("drop",)),
    "asgi_loop": Row(options=("--asgi-loop",)),
    "asgi_lifespan": Row("the lifespan is run where the application has one", ("--asgi-lifespan",), silent=("auto",)),
    "asgi_disconnect_grace_period": Row("the application hears of it at once", ("--asgi-disconnect-grace-period",)),
    "websocket_max_message_size": Row(options=("--websocket-max-message-size",)),
    "http_parser": Row("the engine takes the fastest parser that is installed", ("--http-parser",), silent=("auto",)),
    "root_path": Row(options=("--root-path",)),
    "dirty_apps": Row(_DIRTY, ("--dirty-app",), "list", ([],)),
    "dirty_workers": Row(_DIRTY, ("--dirty-workers",), silent=(0,)),
    "dirty_timeout": Row(_DIRTY, ("--dirty-timeout",)),
    "dirty_threads": Row(_DIRTY, ("--dirty-threads",)),
    "dirty_graceful_timeout": Row(_DIRTY, ("--dirty-graceful-timeout",)),
    "on_dirty_starting": _hook(_DIRTY),
    "dirty_post_fork": _hook(_DIRTY),
    "dirty_worker_init": _hook(_DIRTY),
    "dirty_worker_exit": _hook(_DIRTY),
    "control_socket": Row("'clusterd status' asks a socket of its own", ("--control-socket",)),
    "control_socket_mode": Row("'clusterd status' asks a socket of its own", ("--control-socket-mode",)),
    "control_socket_disable": Row("'clusterd status' asks a socket of its own", ("--no-control-socket",), "flag"),
}  # fmt: skip

GONE = {"django_settings": "give DJANGO_SETTINGS_MODULE in [env]", "debug": "it is no setting of gunicorn since 19"}
"""Settings of older releases that files still have."""
