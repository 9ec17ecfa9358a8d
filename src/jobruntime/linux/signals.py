"""signal(2) without the enums: those of `signal` copy fifty pages in a freshly forked process."""

from _signal import SIG_DFL, SIGCHLD, SIGINT, SIGPIPE, SIGXFSZ  # type: ignore[import-not-found]
from _signal import signal as set_signal

__all__ = ["SIGCHLD", "SIGINT", "SIGPIPE", "SIGXFSZ", "SIG_DFL", "set_signal"]
