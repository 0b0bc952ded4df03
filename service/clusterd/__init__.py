"""clusterd: a process cluster for Linux, done the systemd way."""

__version__ = "0.1.0"
