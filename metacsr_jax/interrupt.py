"""Ctrl-C and SIGTERM as a request to stop at the next boundary."""

import contextlib
import signal
import threading


class Interrupts(contextlib.AbstractContextManager):
    """Inside the context SIGINT and SIGTERM set `received`; a second SIGINT raises KeyboardInterrupt at once.

    Contexts may lie inside one another: a signal is received by all of them. Outside the main thread, where Python delivers no
    signals, nothing is installed.

    Attributes:
        received: the signal's number, or 0.
    """

    def __init__(self):
        self.received = 0
        self._outer: Interrupts | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
            outer = self._previous[signal.SIGTERM]
            self._outer = getattr(outer, "__self__", None)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        del frame
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._mark(number)

    def _mark(self, number):
        self.received = number
        if isinstance(self._outer, Interrupts):
            self._outer._mark(number)
