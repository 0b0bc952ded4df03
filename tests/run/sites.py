"""A site with logins in each framework, that keeps sessions in its own process or as examples/sessions does.

/ answers "PID USER", with what the session knows; /visit begins a session without a login, /login rotates its id,
/logout ends it.
"""

from __future__ import annotations

DJANGO = """
import os
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="k" * 50, ALLOWED_HOSTS=["*"], ROOT_URLCONF="hello",
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "shared": {"BACKEND": "shared.Cache"},
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SESSION_CACHE_ALIAS="<kept>",
    SESSION_COOKIE_AGE=1000,
)

def page(request, at):
    session = request.session
    if at == "visit":
        session["seen"] = 1
    if at == "login":
        session.cycle_key()  # as django.contrib.auth.login() does
        session["user"] = "ada"
    user = session.get("user", "-")
    if at == "logout":
        session.flush()  # as django.contrib.auth.logout() does
    return HttpResponse(f"{os.getpid()} {user}")

urlpatterns = [path("<str:at>", page), path("", page, {"at": ""})]
app = get_wsgi_application()
"""
FLASK = """
import os
from cachelib import SimpleCache
from flask import Flask, session
from flask_session import Session
import shared

app = Flask(__name__)
app.config["SESSION_TYPE"] = "cachelib"
app.config["SESSION_CACHELIB"] = <kept>
app.config["PERMANENT_SESSION_LIFETIME"] = 1000
Session(app)

@app.route("/", defaults={"at": ""})
@app.route("/<at>")
def page(at):
    if at == "visit":
        session["seen"] = (1, 2)
    if at == "login":
        app.session_interface.regenerate(session)
        session["user"] = "ada"
    assert session.get("seen", (1, 2)) == (1, 2)
    user = session.get("user", "-")
    if at == "logout":
        session.clear()
    return f"{os.getpid()} {user}"
"""
STARLETTE = """
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware
from starsessions.session import regenerate_session_id
import shared

async def page(request):
    at, session = request.path_params["at"], request.session
    if at == "visit":
        session["seen"] = 1
    if at == "login":
        regenerate_session_id(request)
        session["user"] = "ada"
    user = session.get("user", "-")
    if at == "logout":
        session.clear()
    return PlainTextResponse(f"{os.getpid()} {user}")

app = Starlette(routes=[Route("/{at:path}", page)])
app.add_middleware(SessionAutoloadMiddleware)
app.add_middleware(SessionMiddleware, store=<kept>, lifetime=1000)
"""
