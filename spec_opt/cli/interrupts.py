"""Ctrl-C and SIGTERM: the first lets the running trial finish, the second leaves at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signals(on_first: Callable[[], None]) -> Iterator[threading.Event]:
    """While inside, the first signal sets the event and calls `on_first`; the second raises.

    Later ones are ignored: by then the trial is being given back, which takes seconds.

    Raises (inside):
        KeyboardInterrupt: at the second signal.
    """
    stop, raised = threading.Event(), threading.Event()

    def handle(*_: object) -> None:
        if raised.is_set():
            return
        if stop.is_set():
            raised.set()
            raise KeyboardInterrupt
        stop.set()
        on_first()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt as SIGINT does, so that `finally` runs."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
