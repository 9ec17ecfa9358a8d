"""Thin typed wrappers of what Linux offers: processes, cgroup v2, sockets, files. Stdlib only."""
