"""A real systemd in a container: Debian roots built once, an overlay and a cgroup for each machine, no trace afterwards."""
