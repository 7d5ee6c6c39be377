"""Trained models are kept in `<cache>/models`, one file per origin."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spec_opt.errors import CheckpointError
from spec_opt.models.checkpoint import Provenance, load_model, save_model
from spec_opt.models.timer_xl import TimerXL
from spec_opt.series import cache_folder

logger = logging.getLogger(__name__)


def cached_model(key: str, make: Callable[[], tuple[TimerXL, Provenance]]) -> tuple[TimerXL, Path]:
    """The model kept under a key, else made and kept; and its file.

    Of several processes that ask at once, one makes it and the others wait. A file that is damaged
    is made again, with a warning. An interruption leaves nothing behind.

    Raises:
        CheckpointError: the cache cannot be written.
    """
    folder = cache_folder() / "models"
    path = folder / f"{key}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{key}.lock").open("a")
    except OSError as error:
        raise CheckpointError(
            f"{folder}: trained models cannot be kept here ({error.strerror}): "
            "set SPEC_OPT_CACHE to a folder that can be written"
        ) from error
    with lock, _held(lock):
        if path.exists():
            try:
                return load_model(path), path
            except CheckpointError as error:
                logger.warning("%s; it is made again", error)
        model, provenance = make()
        save_model(model, path, provenance)
    logger.info("kept the %s: %s", provenance.origin.role, path)
    return model, path


@contextmanager
def _held(lock: IO[str]) -> Iterator[None]:
    """While an open file is locked against other processes, where the system can do that.

    Where it cannot, two processes may do the same work; the file is whole in any case.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another process is making this model: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:  # a network file system without locks
        logger.debug("%s: no lock: %s", Path(lock.name), error)
    yield  # closing the file lets go of the lock
