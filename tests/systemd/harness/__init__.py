"""A real systemd in a container: Debian roots built once, an overlay and a cgroup a machine, no trace afterwards."""
