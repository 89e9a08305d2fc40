"""Ctrl-C and SIGTERM as a request to stop at the next boundary."""

import contextlib
import signal
import threading


class Interrupts(contextlib.AbstractContextManager):
    """Inside the context SIGINT and SIGTERM set `received`; a second SIGINT raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, nothing is installed.

    Attributes:
        received: the signal's number, or 0.
    """

    def __init__(self):
        self.received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        del frame
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
