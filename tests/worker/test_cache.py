"""worker.cache: one behaviour, embedded and in a real Redis."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import cache, together
from certificates import make
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.worker.caching import Cache, CacheError, CacheValueError, lacking
from clusterd.worker.caching.embedded import Embedded
from clusterd.worker.caching.place import redacted
from clusterd.worker.caching.redis import Redis, RedisClaim
from clusterd.worker.caching.values import MAX_KEY, MAX_VALUE, seconds
from clusterd.worker.inspection import open_fds, reasons
from tests.patience import HANG
from tests.redises import Server, server

SERVICE = Path(__file__).parents[2] / "service"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands still for seconds, a redis-server or who has a lock, is no matter here, but where a test makes it
    one."""
    for name in ("redis.TIMEOUT", "redis.LEASE", "embedded.PATIENCE"):
        monkeypatch.setattr(f"clusterd.worker.caching.{name}", HANG)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as made:
        yield made


@pytest.fixture(params=["embedded", "unix", pytest.param("tcp", marks=pytest.mark.proof)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory or a URL, of an empty cache."""
    if request.param == "embedded":
        return str(tmp_path / "cache")
    running: Server = request.getfixturevalue("running")
    url = running.urls[request.param]
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def shared(place: str) -> Cache:
    return cache(place)


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["a", "b", "ö/%s\0"])
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, JSON | st.binary() | st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just("add"), KEYS, JSON | st.binary()),
    st.tuples(st.just("get"), KEYS, st.none()),
    st.tuples(st.just("delete"), KEYS, st.none()),
    st.tuples(st.just("incr"), KEYS, st.integers(-5, 5) | st.just((1 << 63) - 1)),
)


class Model:
    """A dictionary, with what each method promises."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def step(self, what: str, key: str, given: Any) -> Any:
        if what == "set":
            self.values[key] = given
            return None
        if what == "add":
            new = key not in self.values
            self.values.setdefault(key, given)
            return new
        if what == "delete":
            return self.values.pop(key, self) is not self
        if what == "get":
            return self.values.get(key)
        old = self.values.get(key, 0)
        if type(old) is not int or abs(2 * old + 1) >= 1 << 64 or abs(2 * (old + given) + 1) >= 1 << 64:
            return CacheValueError
        self.values[key] = old + given
        return old + given


def step(shared: Cache, what: str, key: str, given: Any) -> Any:
    try:
        return getattr(shared, what)(*([key] if given is None and what not in ("set", "add") else [key, given]))
    except CacheValueError:
        return CacheValueError


def test_is_a_dictionary(place: str) -> None:
    """Whatever is done one after the other gives what a dictionary gives; incr takes integers of 64 bits alone."""
    shared = cache(place)

    @settings(max_examples=50)
    @given(st.lists(STEPS, max_size=12))
    def holds(steps: list[tuple[str, str, Any]]) -> None:
        for key in ("a", "b", "ö/%s\0"):
            shared.delete(key)
        model = Model()
        for one in steps:
            made, expected = step(shared, *one), model.step(*one)
            assert (type(made), made) == (type(expected), expected), one

    holds()


def test_times(shared: Cache) -> None:
    """A value goes when its time is over; an incr gives a time to a new key only, and a set takes a new one."""
    shared.set("short", 1, ttl="30ms")
    shared.set("long", 1, ttl="1h")
    assert [shared.add("once", 1, ttl="30ms"), shared.add("long", 2, ttl="1ms")] == [True, False]
    while True:
        begun = time.monotonic()
        counted = [shared.incr("count", ttl=0.03), shared.incr("count", ttl=3600)]
        if time.monotonic() - begun < 0.03:
            break
        shared.delete("count")
    assert counted == [1, 2]
    end = time.monotonic() + 10
    while any(shared.get(key) is not None for key in ("short", "once", "count")):
        assert time.monotonic() < end
    assert shared.add("once", 2)
    assert shared.get("long") == 1
    assert not shared.delete("short")
    assert shared.incr("count") == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: c.get(""), "a key has 1 to 512 bytes, this one 0"),
        (lambda c: c.get("ö" * (MAX_KEY // 2 + 1)), "a key has 1 to 512 bytes, this one 514"),
        (lambda c: c.get(b"a"), "a key is a str, not bytes"),
        (lambda c: c.get("\ud800"), "has no UTF-8"),
        (lambda c: c.set("a", object()), "a value is JSON or bytes: Object of type object"),
        (lambda c: c.set("a", float("nan")), "a value is JSON or bytes: "),
        (lambda c: c.set("a", b"x" * MAX_VALUE), "a value has 1048576 bytes at most, this one 1048577"),
        (
            lambda c: c.set("a", 1, ttl=0),
            "a time is 0.001 to 315360000 seconds, or text such as '10s' or '5min', not 0",
        ),
        (lambda c: c.set("a", 1, ttl="10 years"), "not '10 years'"),
        (lambda c: c.set("a", 1, ttl=float("nan")), "not nan"),
        (lambda c: c.incr("a", 1.5), "by is an integer of 64 bits, not 1.5"),
        (lambda c: c.set("a", "text") or c.incr("a"), "incr: the value is not an integer of 64 bits"),
        (lambda c: c.set("a", (1 << 63) - 1) or c.incr("a"), "incr: the sum has more than 64 bits"),
    ],
)
def test_mistakes(shared: Cache, call: Any, told: str) -> None:
    """A mistake is told in the same words by both stores, as a ValueError."""
    with pytest.raises(CacheValueError) as raised:
        call(shared)
    assert told in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_units() -> None:
    """Times are seconds, or text with the units of the configuration file."""
    assert [seconds(t) for t in (2, 0.5, "10s", "250ms", "5min", "1h", "2d", None)] == [
        *(2, 0.5, 10, 0.25, 300, 3600, 172800),
        None,
    ]


def test_incr_in_processes(place: str) -> None:
    """Eight processes count to the exact sum, one of those that add a key has added it, and what was open before the
    forks is open in the parent still."""
    shared = cache(place)
    shared.set("count", 0)

    def work(number: int) -> None:
        for turn in range(50):
            shared.incr("count")
            if shared.add(f"turn{turn}", number):
                shared.incr("added")

    assert together(8, work) == [0] * 8
    assert (shared.get("count"), shared.get("added")) == (400, 50)


def test_computed_once(place: str, tmp_path: Path) -> None:
    """Eight processes that ask at one moment get one value, computed by one."""
    shared, told = cache(place), tmp_path / "told"

    def work(number: int) -> None:
        def compute() -> list[int]:
            with told.open("a") as f:
                f.write("computed\n")
            time.sleep(0.1)
            return [42]

        assert shared.get_or_compute("answer", "1min", compute) == [42]

    assert together(8, work) == [0] * 8
    assert told.read_text() == "computed\n"


def test_computed_by_the_next(place: str) -> None:
    """An exception goes to whoever computed; the next of those who wait tries, and threads exclude each other too."""
    shared, entered, calls = cache(place), threading.Event(), []

    def compute() -> str:
        calls.append(threading.current_thread().name)
        entered.set()
        if len(calls) == 1:
            waiting.wait(10)
            raise ZeroDivisionError
        return "done"

    waiting, failed, made = threading.Event(), [], []

    def first() -> None:
        try:
            shared.get_or_compute("a", None, compute)
        except ZeroDivisionError as e:
            failed.append(e)

    def second() -> None:
        entered.wait(10)
        waiting.set()
        made.append(shared.get_or_compute("a", None, compute))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(failed), made, len(calls)) == (1, ["done"], 2)


def test_computing_process_dies(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The death of who computes frees those who wait, long before their own limit."""
    monkeypatch.setattr("clusterd.worker.caching.redis.LEASE", 0.2)
    shared = cache(place)
    entered, tell = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            shared.get_or_compute("a", None, lambda: os.write(tell, b"x") and signal.pause(), lease="1h")
        finally:
            os._exit(1)
    os.read(entered, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(entered)
    os.close(tell)
    assert shared.get_or_compute("a", None, lambda: "mine", lease="1h") == "mine"


def test_forked_while_computing(tmp_path: Path) -> None:
    """What is forked meanwhile neither keeps a claim that is let go of, nor lets go of it on its own way out."""
    store = Embedded(str(tmp_path))
    mine, other = store.claim("a", 0), store.claim("a", 0)
    assert mine.take()
    until, leave = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(leave)
        os.read(until, 1)
        os._exit(0)
    assert together(1, lambda number: mine.release()) == [0]
    assert not other.take()
    mine.release()
    assert other.take()
    other.release()
    os.close(leave)
    os.close(until)
    assert os.waitpid(pid, 0)[1] == 0


def test_lease_is_bounded(place: str) -> None:
    """Whoever has waited for the lease of one that hangs computes besides."""
    shared = cache(place)
    leave, entered = threading.Event(), threading.Event()

    def hang() -> str:
        entered.set()
        leave.wait(30)
        return "late"

    thread = threading.Thread(target=lambda: shared.get_or_compute("a", None, hang))
    thread.start()
    entered.wait(10)
    assert shared.get_or_compute("a", None, lambda: "mine", lease="50ms") == "mine"
    leave.set()
    thread.join(30)


def test_in_coroutines(place: str) -> None:
    """The coroutines do the same; while one waits for a computation elsewhere the event loop goes on."""
    shared = cache(place)

    async def slow() -> dict[str, int]:
        calls.append(1)
        await others.wait()
        return {"n": 1}

    async def main() -> None:
        await shared.aset("a", [1], ttl=60)
        assert await shared.aget("a") == [1]
        assert await shared.aget("none", 7) == 7
        assert [await shared.aincr("n"), await shared.aincr("n", 4)] == [1, 5]
        assert [await shared.adelete("n"), await shared.adelete("n")] == [True, False]
        assert [await shared.aadd("n", 1), await shared.aadd("n", 2), await shared.aget("n")] == [True, False, 1]
        asked = [asyncio.ensure_future(shared.aget_or_compute("slow", "1min", slow)) for _ in range(5)]
        await asyncio.sleep(0)
        others.set()  # reached only because those who wait let the loop run
        assert await asyncio.gather(*asked) == [{"n": 1}] * 5
        assert await shared.aget_or_compute("plain", None, lambda: "in a thread") == "in a thread"

    calls: list[int] = []
    others = asyncio.Event()
    asyncio.run(main())
    assert calls == [1]


@pytest.mark.parametrize("place", ["unix"], indirect=True)
def test_cancelled_while_it_claims(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is cancelled while its claim is on the way to the Redis leaves none there, nor a thread that renews it."""
    claiming, released = threading.Event(), threading.Event()
    take, release = Redis.take, RedisClaim.release

    def late(store: Redis, name: str, token: str) -> bool:
        claiming.set()
        assert released.wait(HANG)
        taken.append(take(store, name, token))
        return taken[-1]

    def soon(claim: RedisClaim) -> None:
        release(claim)
        released.set()

    async def main() -> None:
        asked = asyncio.ensure_future(shared.aget_or_compute("a", None, lambda: 1))
        assert await asyncio.to_thread(claiming.wait, HANG)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.get_running_loop().shutdown_default_executor()

    monkeypatch.setattr(Redis, "take", late)
    monkeypatch.setattr(RedisClaim, "release", soon)
    shared, taken = cache(place), []
    asyncio.run(main())
    assert taken == [True]
    assert "cache lease" not in [thread.name for thread in threading.enumerate()]
    following = shared._store.claim("a", 0)
    assert following.take(), "the next one computes"
    following.release()


def test_killed_while_writing(tmp_path: Path) -> None:
    """Processes killed in the middle of writes leave a cache that is whole, and locked by nobody."""
    shared = cache(str(tmp_path))
    for _ in range(5):
        begun, tell = os.pipe()
        if (pid := os.fork()) == 0:
            for number in range(1 << 30):
                shared.set(f"k{number % 50}", "x" * 5000)
                if number == 20:
                    os.write(tell, b"x")
        os.read(begun, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(begun)
        os.close(tell)
        assert shared.incr("n") > 0
    with sqlite3.connect(tmp_path / "cache.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_bounded(tmp_path: Path) -> None:
    """The file keeps its bound: what has expired goes first, then what was written longest ago."""
    size = 2 << 20
    shared = Cache(lambda: Embedded(str(tmp_path), size))
    for number in range(10):
        shared.set(f"gone{number}", b"x" * 50_000, ttl=0.001)
    for number in range(20):
        shared.set(f"old{number}", b"x" * 50_000)
    for number in range(10):
        shared.set(f"more{number}", b"x" * 50_000)
    assert all(shared.get(f"old{number}") for number in range(20)), "what had expired was enough"
    for number in range(200):
        shared.set(f"new{number}", b"x" * 50_000)
        shared.incr("hot")
    assert shared.get("old0") is None
    assert shared.get("new199") is not None
    assert shared.get("hot") == 200, "written all the time"
    assert (tmp_path / "cache.sqlite").stat().st_size <= size
    shared.set("large", b"x" * (MAX_VALUE - 1))
    assert shared.get("large") is not None


def test_unusable_directory(tmp_path: Path) -> None:
    """Where the file cannot be, each call says which and why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=f"the cache in '{tmp_path}/file/cache': "):
        cache(str(tmp_path / "file" / "cache")).get("a")


def test_other_boot(tmp_path: Path) -> None:
    """What another boot, or a release with other tables, has left is not believed."""
    cache(str(tmp_path)).set("a", 1)
    db = sqlite3.connect(tmp_path / "cache.sqlite")
    db.execute("PRAGMA user_version = 1")
    db.close()
    assert cache(str(tmp_path)).get("a") is None


def test_redis_goes_and_comes() -> None:
    """While Redis is away every call says so, without its password; when it is back they work again."""
    with server() as made:
        shared = cache(made.urls["tcp"].replace("redis://", "redis://user:secret@"))
        with pytest.raises(CacheError) as raised:  # it knows no such user
            shared.get("a")
        assert "secret" not in str(raised.value)
        shared = cache(made.urls["unix"])
        shared.set("a", 1)
        made.stop()
        for call in (lambda: shared.get("a"), lambda: shared.incr("n"), lambda: shared.get_or_compute("b", 1, int)):
            with pytest.raises(CacheError, match=r"the cache 'unix://.*' does not answer: "):
                call()
        made.start()
        shared.set("a", 2)
        assert shared.get("a") == 2


def test_redis_hangs(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that does not answer costs a bounded time, and the other tasks of an event loop nothing."""
    assert running.process is not None
    pid = running.process.pid

    def patient(seconds: float) -> Cache:
        monkeypatch.setattr("clusterd.worker.caching.redis.TIMEOUT", seconds)
        made = cache(running.urls["unix"])
        assert made._store.remote
        return made

    async def main() -> None:
        asked = asyncio.ensure_future(shared.aget("a"))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not asked.done()
        os.kill(pid, signal.SIGCONT)
        assert await asked == 1

    shared = patient(60)
    shared.set("a", 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(CacheError, match="does not answer"):
            patient(0.05).get("a")
        asyncio.run(main())
    finally:
        os.kill(pid, signal.SIGCONT)


def test_redacted() -> None:
    """Messages name a Redis without user, password and options."""
    assert redacted("rediss://u:p@host:6379/1?password=x") == "rediss://host:6379/1"
    assert redacted("unix://u:p@/run/r.sock?db=1") == "unix:///run/r.sock"
    assert redacted("redis://[::1") == "redis://..."


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:s3c/ret@h/1", "'redis://...' is no URL of a Redis: in its password / is %2F, # is %23"),
        ("redis://:s3c?ret@h/1", "'redis://...' is no URL of a Redis: in its password / is %2F, # is %23"),
        ("redis://:s3cret@h/1?colour=red", "'redis://h/1' is no URL of a Redis: .*'colour'"),
        ("redis://:s3cret@h:port/1", "'redis://h:port/1' is no URL of a Redis: Port could not be"),
        ("redis://:s3cret@h?db=one", "'redis://h' is no URL of a Redis: Invalid value for .db."),
        ("redis://:s3cret@[::1/1", "'redis://...' is no URL of a Redis: "),
    ],
)
def test_no_url(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that cannot be one is refused before the first use, at the start, and its password never repeated."""
    monkeypatch.setenv("CLUSTERD_CACHE", "$REDIS_URL")
    monkeypatch.setenv("REDIS_URL", url)
    said = lacking() or ""
    assert re.search(told, said)
    assert not {"s3c", "ret"} & set(re.findall(r"\w+", said.replace("s3cret", "s3c")))


def test_redis_with_tls(tmp_path: Path) -> None:
    """rediss:// is TLS, by the machine's authorities or the one that the URL names; a stranger's is refused."""
    pair = make(tmp_path, "redis", 1)
    with server(pair) as made:
        url = f"rediss://localhost:{made.port}/0"
        shared = cache(f"{url}?ssl_ca_certs={pair.certificate}")
        shared.set("a", 1)
        assert shared.get("a") == 1
        with pytest.raises(CacheError, match="certificate verify failed"):
            cache(url).get("a")
        with pytest.raises(CacheError, match="does not answer"):
            cache(url.replace("rediss", "redis")).get("a")


def test_used_at_import(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use while the application is imported leaves nothing open that would prevent that workers are forked."""
    monkeypatch.setenv("CLUSTERD_CACHE", place)
    monkeypatch.delenv("CLUSTERD_WORKER", raising=False)
    before = open_fds()
    already = reasons(before)  # threads of other tests
    shared = cache(place)
    shared.set("a", 1)
    assert shared.get_or_compute("a", None, int) == 1
    assert [shared.get_or_compute(f"new {number}", None, int) for number in range(100)] == [0] * 100
    assert [reason for reason in reasons(before) if reason not in already] == []


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(SERVICE), "PATH": os.environ["PATH"], **environment}
    return subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, env=env, timeout=60)


def test_outside_a_cluster() -> None:
    """In a script or a REPL there is a cache too, which a child shares; it is gone with the process."""
    made = python(
        "import os\nfrom clusterd import worker\nworker.cache.set('a', 1)\n"
        "if os.fork() == 0:\n    worker.cache.incr('a')\n    raise SystemExit\n"
        "os.wait()\nprint(worker.cache.get('a'), worker.cache._store.directory)"
    )
    number, directory = made.stdout.split()
    assert (number, made.stderr) == ("2", "")
    assert not Path(directory).exists()


def test_variable_names_it() -> None:
    """cache = "$NAME" takes the URL from the environment, and says what is lacking."""
    ask = "from clusterd.worker.caching import lacking; print(lacking())"
    assert python(ask, CLUSTERD_CACHE="$REDIS_URL", REDIS_URL="redis://h").stdout == "None\n"
    assert "in the variable REDIS_URL, which is not set" in python(ask, CLUSTERD_CACHE="$REDIS_URL").stdout
    made = python(ask, CLUSTERD_CACHE="$REDIS_URL", REDIS_URL="s3cret").stdout
    assert "which is not one" in made
    assert "s3cret" not in made


def test_credential_names_it(tmp_path: Path) -> None:
    """A credential of the variable's name has the URL too, as an editor leaves it; the variable comes first."""
    ask = "from clusterd.worker.caching import place; print(place.find())"
    (tmp_path / "REDIS_URL").write_text("redis://:s3cret@h/1\n")
    named = {"CLUSTERD_CACHE": "$REDIS_URL", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert python(ask, **named).stdout == "redis://:s3cret@h/1\n"
    assert python(ask, **named, REDIS_URL="redis://other").stdout == "redis://other\n"
    (tmp_path / "REDIS_URL").write_bytes(b"\xff")
    said = python("from clusterd.worker.caching import lacking; print(lacking())", **named).stdout
    assert said == 'cache = "$REDIS_URL": the credential REDIS_URL cannot be read: it is no text\n'


def test_package_is_lacking() -> None:
    """Without the package redis the start is refused, with the line that installs it."""
    hide = "import importlib.util as u\nreal = u.find_spec\nu.find_spec = lambda n: None if n == 'redis' else real(n)\n"
    made = python(hide + "from clusterd.worker.caching import lacking; print(lacking())", CLUSTERD_CACHE="redis://h")
    assert "cache: the package redis is not installed for " in made.stdout
    assert "-m pip install redis" in made.stdout or "python3-redis" in made.stdout
    assert python("from clusterd import worker; import sys; print('sqlite3' in sys.modules)").stdout == "False\n"
