"""The grammar of addresses, and which of them overlap."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config.addresses import PATH_MAX, Address, overlaps, parse
from clusterd.config.claims import serving, settle

HOSTS = ["::", "0.0.0.0", "127.0.0.1", "10.0.0.1", "::1", "2001:db8::1", "fe80::1%eth0", "fe80::1%eth1"]
ADDRESSES = st.one_of(
    st.builds(Address, st.just("tcp"), st.sampled_from(HOSTS), st.integers(1, 3)),
    st.builds(
        lambda path, mode, group: Address("unix", path=path, mode=mode, group=group),
        st.sampled_from(["/run/a.sock", "/run/b.sock"]),
        st.sampled_from([0o660, 0o666]),
        st.sampled_from([None, "www-data"]),
    ),
)


@pytest.mark.parametrize(
    ("value", "text", "stream"),
    [
        ("8000", "[::]:8000", "8000"),
        (8000, "[::]:8000", "8000"),
        ("[::]:8000", "[::]:8000", "8000"),
        ("0.0.0.0:80", "0.0.0.0:80", "0.0.0.0:80"),
        ("127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8000"),
        ("[::1]:8001", "[::1]:8001", "[::1]:8001"),
        ("[2001:DB8:0::1]:1", "[2001:db8::1]:1", "[2001:db8::1]:1"),
        ("[fe80::1]:8001%eth0", "[fe80::1]:8001%eth0", "[fe80::1]:8001%%eth0"),
        ("/run/x.sock", "/run/x.sock", "/run/x.sock"),
        ("/run/50%.sock", "/run/50%.sock", "/run/50%%.sock"),
        ("/var/run/x.sock", "/run/x.sock", "/run/x.sock"),
        ({"address": "8000"}, "[::]:8000", "8000"),
        ({"path": "/run/x.sock", "mode": "0600"}, "/run/x.sock", "/run/x.sock"),
    ],
)
def test_reads(value: object, text: str, stream: str) -> None:
    """Every form of systemd's grammar that can be served is read, told in one form, and written for ListenStream=."""
    address = parse(value)
    assert (address.text(), address.stream()) == (text, stream)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"path": "/x"}, (0o666, None, None)),
        ({"path": "/x", "group": "www-data"}, (0o660, None, "www-data")),
        ({"path": "/x", "mode": "600", "user": "u", "group": "33"}, (0o600, "u", "33")),
    ],
)
def test_owners(table: dict[str, str], expected: tuple[int, str | None, str | None]) -> None:
    """A UNIX socket is open to all, as systemd's are, unless it has a group: then to that."""
    address = parse(table)
    assert (address.mode, address.user, address.group) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "a port is a number from 1 to 65535"),
        (65536, "a port is a number from 1 to 65535"),
        ("127.0.0.1:", "a port is a number from 1 to 65535"),
        ("08000", "a port is a number from 1 to 65535"),
        (True, 'an address is a string such as "8000", or a table { path = "/run/x.sock", mode = "0660" }'),
        ("", 'write a port ("8000"), "ADDRESS:PORT", "[IPV6]:PORT" or the absolute path of a UNIX socket'),
        ("127.0.0.1", 'write a port ("8000"), "ADDRESS:PORT", "[IPV6]:PORT" or the absolute path of a UNIX socket'),
        ("x.sock", 'write a port ("8000"), "ADDRESS:PORT", "[IPV6]:PORT" or the absolute path of a UNIX socket'),
        ("localhost:80", 'names are not looked up: "127.0.0.1:80"'),
        ("localhost:", "names are not looked up"),
        ("unix:/run/x.sock", 'a UNIX socket is written as its absolute path alone: "/run/x.sock"'),
        ("unix:///run/x.sock", 'a UNIX socket is written as its absolute path alone: "/run/x.sock"'),
        ("unix:run.sock", "a UNIX socket is written as its absolute path alone"),
        ("unix:" * 9000, "a UNIX socket is written as its absolute path alone"),
        ("http://127.0.0.1:8000", 'an address has no "http://": "127.0.0.1:8000"'),
        ("https://[::1]:8000/", 'an address has no "https://": "[::1]:8000"'),
        ("tcp://0.0.0.0:80", 'an address has no "tcp://": "0.0.0.0:80"'),
        ("http://localhost:80", 'an address has no "http://"'),
        ("tcp://" * 9000, 'an address has no "tcp://"'),
        ("127.0.0.256:80", "a host is given by its IP address: names are not looked up"),
        ("127.0.0.01:80", "a host is given by its IP address: names are not looked up"),
        ("::1:80", 'an IPv6 address stands in brackets, its port behind them: "[::1]:80"'),
        ("::", 'an IPv6 address stands in brackets, its port behind them: "[::]:8000"'),
        ("::1", 'an IPv6 address stands in brackets, its port behind them: "[::1]:8000"'),
        ("127.0.0.1:80:80", "an IPv6 address stands in brackets, its port behind them"),
        ("fe80::1:80", "an IPv6 address stands in brackets, its port behind them"),
        ("[:::1]:80", 'an IPv6 address is written "[::1]:8001", a link-local one "[fe80::1]:8001%eth0"'),
        ("[::ffff:1.2.3.4]:99999", "a port is a number from 1 to 65535"),
        ("[::1]", 'an IPv6 address is written "[::1]:8001", a link-local one "[fe80::1]:8001%eth0"'),
        ("[::ffff:1.2.3.4]:80", 'write it as IPv4: "1.2.3.4:80"'),
        ("[fe80::1]:80", 'a link-local address needs its interface: "[fe80::1]:80%eth0"'),
        ("[::1]:80%lo", 'only a link-local address has an interface: "[::1]:80"'),
        ("@x", "an abstract socket has no permissions, so anybody could connect: give it a path under /run"),
        ("/run/a b", "the path of a socket is printable ASCII without spaces and backslashes"),
        ("/run/a\n", "the path of a socket is printable ASCII without spaces and backslashes"),
        ("/run/a\\", "the path of a socket is printable ASCII without spaces and backslashes"),
        ("/run/" + "x" * 103, "the path of a socket has at most 107 bytes, this one 108"),
        ("/run/../x", "the path of a socket ends in its name and has no '//', '.' or '..' in it"),
        ("/run/", "the path of a socket ends in its name and has no '//', '.' or '..' in it"),
        ({}, "an address table has either 'path' or 'address'"),
        ({"path": "/x", "address": "80"}, "an address table has either 'path' or 'address'"),
        ({"port": 80}, "'port' is no key of an address: address, path, mode, user, group are"),
        ({"address": "80", "mode": "0660"}, "mode, user and group belong to a UNIX socket: give its 'path'"),
        ({"path": "80"}, "'path' is the absolute path of a UNIX socket"),
        ({"path": "/x", "mode": 660}, "'mode' is an octal number in quotes, such as \"0660\""),
        ({"path": "/x", "mode": "0888"}, "'mode' is an octal number in quotes, such as \"0660\""),
        (
            {"path": "/x", "group": "www data"},
            "'group' is the name of an account or its number in quotes: a name is [a-z_][a-z0-9_-]{0,30}",
        ),
        (
            {"path": "/x", "user": "65535"},
            "'user' is the name of an account or its number in quotes: a number is at most 4294967294, and not 65535: "
            "systemd takes no other",
        ),
    ],
)
def test_refuses(value: object, message: str) -> None:
    """What systemd could not open, or nobody could mean, is refused with what to write instead."""
    with pytest.raises(ValueError) as e:
        parse(value)
    assert str(e.value) == message


@given(st.from_regex(r"(unix:|http://|tcp://)?/{0,3}\[?(::1?|fe80::1|127\.0\.0\.1|localhost|run)\]?(:[0-9]{0,6})?/?"))
def test_a_hint_is_an_address(value: str) -> None:
    """What a message says to write, behind its last colon and in quotes, is taken."""
    try:
        parse(value)
    except ValueError as e:
        if match := re.search(r': "([^"]+)"$', str(e)):
            parse(match[1].replace("%eth0", "%lo"))


@given(st.one_of(st.text(max_size=PATH_MAX), st.integers(), st.dictionaries(st.text(max_size=7), st.text(max_size=9))))
def test_any_input(value: Any) -> None:
    """Whatever stands in the file: an address that reads back as itself and fits a line of a unit, or a ValueError."""
    try:
        address = parse(value)
    except ValueError:
        return
    assert parse(address.text())._replace(mode=0, user=None, group=None) == address._replace(
        mode=0, user=None, group=None
    )
    assert address.stream().isprintable()
    assert " " not in address.stream()


@given(ADDRESSES, ADDRESSES)
def test_overlap_is_symmetric(a: Address, b: Address) -> None:
    """If a takes b's connections then b takes a's, and every address takes its own."""
    assert overlaps(a, b) == overlaps(b, a)
    assert overlaps(a, a)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("8000", "127.0.0.1:8000", True),
        ("8000", "[::1]:8000", True),
        ("8000", "0.0.0.0:8000", True),
        ("0.0.0.0:8000", "127.0.0.1:8000", True),
        ("0.0.0.0:8000", "[::1]:8000", False),
        ("127.0.0.1:8000", "127.0.0.2:8000", False),
        ("8000", "8001", False),
        ("[fe80::1]:80%eth0", "[fe80::1]:80%eth1", False),
        ("/run/a", "/run/b", False),
        ("/run/a", "/var/run/a", True),
        ("/run/a", "80", False),
    ],
)
def test_overlap(a: str, b: str, expected: bool) -> None:
    """Wildcards cover their family, and a port alone covers both."""
    assert overlaps(parse(a), parse(b)) is expected


@pytest.mark.parametrize(
    ("a", "b"), [("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1"), ("::", "0.0.0.0"), ("0.0.0.0", "::1")]
)
def test_overlap_as_the_kernel_has_it(a: str, b: str) -> None:
    """Without SO_REUSEPORT the kernel refuses the second bind exactly where addresses overlap."""

    def bound(host: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if ":" in host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        return sock

    with bound(a, 0) as first:
        port = first.getsockname()[1]
        try:
            bound(b, port).close()
            refused = False
        except OSError:
            refused = True
    assert refused == overlaps(Address("tcp", a, port), Address("tcp", b, port))


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(ADDRESSES, max_size=3)), st.sets(st.sampled_from("abcd")))
def test_settle(claims: dict[str, list[Address]], running: set[str]) -> None:
    """After it, no two left overlap; each refused one overlaps its holder, who stays; and of two, who runs stays."""
    refused = settle(claims, running)
    left = [name for name in claims if name not in refused]
    for name in left:
        assert not any(overlaps(x, y) for o in left if o != name for x in claims[name] for y in claims[o])
    for name, claim in refused.items():
        assert claim.holder in left
        assert overlaps(claim.address, claim.held)
        assert (claim.holder not in running, claim.holder) < (name not in running, name)


def test_serving(tmp_path: Any) -> None:
    """An instance runs that has a control socket, whether its code can be started or not: it has its addresses open."""
    for name, files in {"runs": ["control"], "gone": []}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    assert serving(["runs", "gone", "never"], str(tmp_path)) == {"runs"}
