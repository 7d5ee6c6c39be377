"""Ctrl-C and SIGTERM: once means leave in good order, twice means leave at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(on_first: Callable[[], None]) -> Iterator[threading.Event]:
    """While inside, the first signal sets the event and calls `on_first`; the second raises.

    Later ones do nothing: what is running by then gives the trial back, and that takes seconds.

    Raises (inside):
        KeyboardInterrupt: a second signal came.
    """
    stop, raised = threading.Event(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if raised.is_set():
            return
        if stop.is_set():
            raised.set()
            raise KeyboardInterrupt
        stop.set()
        on_first()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt as SIGINT does: nothing stays half-written."""

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
