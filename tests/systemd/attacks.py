"""What somebody tries who has taken over a worker: what came of each, a success or an errno's name."""

import ctypes
import errno
import json
import os
import socket
import subprocess

ATTACH = 16  # PTRACE_ATTACH
libc = ctypes.CDLL(None, use_errno=True)


def call(number):
    if number < 0:
        raise OSError(ctypes.get_errno(), "failed")
    return number


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def peek(pid):
    """Read its memory by a system call."""
    local, remote = ctypes.create_string_buffer(16), ctypes.c_void_p(id(peek))
    io = ctypes.c_size_t * 2
    here, there = io(ctypes.addressof(local), 8), io(remote.value, 8)
    return call(libc.process_vm_readv(pid, here, 1, there, 1, 0))


def steal(pid):
    """A descriptor of its."""
    pidfd = os.pidfd_open(pid)
    try:
        return call(libc.syscall(438, pidfd, 3, 0))
    finally:
        os.close(pidfd)


def port(number):
    """Listen beside it, as SO_REUSEPORT lets processes of one user."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", number))
        s.listen()


def ask(control, method):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(control)
        s.sendall(json.dumps({"method": f"io.clusterd.{method}", "parameters": {}}).encode() + b"\0")
        answer = json.loads(s.recv(1 << 16).split(b"\0")[0])
    return answer.get("error", "allowed").rpartition(".")[2]


def tell(text):
    """systemd itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), "/run/systemd/notify")
    return "sent"


def keep(name, fd):
    """Let systemd keep a descriptor for the next start."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("/run/systemd/notify")
        socket.send_fds(s, [f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode()], [fd])
    return "sent"


def forget(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), "/run/systemd/notify")


def listener():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        return os.dup(s.fileno())


def own_slot(number):
    """The socket that it serves itself."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as s:
                if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and s.getsockname()[1] == number:
                    return fd
        except OSError:
            pass
    raise LookupError(f"nothing listens on {number} here")


def program(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return f"exit {done.returncode}" if done.returncode else "did"


def on_another(name, pid, number):
    """Attacks on another instance: its name, a process of its, its port."""
    runtime, cgroup = (
        f"/run/clusterd/{name}",
        f"/sys/fs/cgroup/system.slice/system-cluster.slice/cluster@{name}.service",
    )
    return {
        "signal": lambda: os.kill(pid, 0),
        "trace": lambda: call(libc.ptrace(ATTACH, pid, 0, 0)),
        "memory": lambda: peek(pid),
        "descriptor": lambda: steal(pid),
        "environment": lambda: open(f"/proc/{pid}/environ").read(),
        "memory file": lambda: open(f"/proc/{pid}/mem").read(),
        "command line": lambda: open(f"/proc/{pid}/cmdline").read(),
        "control socket": lambda: os.unlink(f"{runtime}/control"),
        "runtime directory": lambda: write(f"{runtime}/x", ""),
        "state directory": lambda: os.listdir(f"/var/lib/clusterd/{name}"),
        "credentials": lambda: os.listdir(f"/run/credentials/cluster@{name}.service"),
        "its cgroup": lambda: write(f"{cgroup}/cgroup.kill", "1"),
        "into its cgroup": lambda: write(f"{cgroup}/cgroup.procs", str(os.getpid())),
        "its file": lambda: write(f"/etc/clusterd/{name}.toml", ""),
        "its secrets": lambda: open(f"/etc/clusterd/{name}.env").read(),
        "its port": lambda: port(number),
        "Status": lambda: ask(f"{runtime}/control", "Status"),
        "Reload": lambda: ask(f"{runtime}/control", "Reload"),
        "Stop": lambda: ask(f"{runtime}/control", "Stop"),
        "systemctl": lambda: program("systemctl", "--no-ask-password", "stop", f"cluster@{name}.service"),
        "main process": lambda: tell(f"MAINPID={pid}"),
    }


def on_the_machine():
    return {
        "root": lambda: os.setuid(0),
        "mount": lambda: call(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
        "namespace": lambda: call(libc.unshare(0x10000000)),
        "chroot": lambda: os.chroot("/tmp"),
        "clock": lambda: __import__("time").clock_settime(0, 1e9),
        "init": lambda: os.kill(1, 0),
        "the program": lambda: write("/usr/share/clusterd/clusterd/keeper.py", ""),
        "a unit": lambda: write("/etc/systemd/system/x.service", ""),
        "a file of clusterd's": lambda: write("/etc/clusterd/x.toml", ""),
        "shadow": lambda: open("/etc/shadow").read(),
        "kernel log": lambda: open("/dev/kmsg").read(),
        "sysctl": lambda: write("/proc/sys/kernel/core_pattern", "|/tmp/x"),
        "set-uid": lambda: os.chmod(write("/tmp/x", "") or "/tmp/x", 0o4755),
        "raw packets": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    }


def lead(name, other):
    """Whoever asks for this application to that one."""
    os.unlink(f"/run/clusterd/{name}/control")
    os.symlink(f"/run/clusterd/{other}/control", f"/run/clusterd/{name}/control")


def on_root(name, other):
    """Attacks on whoever administers them both."""
    return {"a link to another": lambda: lead(name, other)}


def on_the_next_start(port):
    """What the unit's store is to hand over instead of the sockets, or beside them."""
    return {
        "no socket": lambda: forget("slot.0.0") or keep("slot.0.0", os.memfd_create("x")),
        "a listener of its own": lambda: keep("slot.0.1", listener()),
        "one beside the others": lambda: keep("listener", listener()),
        "a slot by each name": lambda: ",".join({keep(f"slot.0.{i}", own_slot(port)) for i in range(2)}),
        "a failure": lambda: keep("failed", os.pipe()[0]),
    }


def on_a_sibling(pid):
    """Attacks on another worker of its own instance, of the same user."""
    return {
        "trace": lambda: call(libc.ptrace(ATTACH, pid, 0, 0)),
        "descriptor": lambda: steal(pid),
    }


def tried(attacks):
    found = {}
    for name, attack in attacks.items():
        try:
            result = attack()
            found[name] = result if isinstance(result, str) else "did"
        except OSError as e:
            found[name] = errno.errorcode.get(e.errno, str(e))
    return found
