"""The WSGI application as clusterd has granian call it: behind a proxy on this machine, who is believed."""

from __future__ import annotations

from bench_wsgi import app as alone
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

app = wrap_wsgi_with_proxy_headers(alone, "127.0.0.1")
