"""Models that were trained or fitted, kept in `<cache>/models`: one file per origin."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spec_opt.config.files import open_lock
from spec_opt.data.series import cache_folder
from spec_opt.errors import CheckpointError
from spec_opt.models.checkpoint import Origin, OwnModel, Provenance, load_own_model, save_model

logger = logging.getLogger(__name__)


def cached_model(
    key: str, origin: Origin, make: Callable[[], tuple[OwnModel, Provenance]]
) -> tuple[OwnModel, Path]:
    """The model that is kept under a key, or else a new one from `make`; and its file.

    A model that is there is only read, so a cache may belong to another user or be mounted
    read-only. If several processes miss one, one makes it and the others wait. A file that is
    damaged, or whose model was made from something else than `origin`, is replaced, with a warning.
    An interruption leaves nothing behind.

    Raises:
        CheckpointError: the model is not there, and the cache cannot be written.
    """
    folder = cache_folder() / "models"
    path = folder / f"{key}.safetensors"
    # Files appear here only once they are whole, so reading needs no lock.
    with suppress(CheckpointError):
        return load_own_model(path, origin), path
    with _locked(folder, key):
        if path.exists():
            try:
                return load_own_model(path, origin), path
            except CheckpointError as error:
                logger.warning("%s; it is made again", error)
        for half in folder.glob(f".{path.name}.*"):  # of a process that was killed while writing
            half.unlink(missing_ok=True)
        model, provenance = make()
        save_model(model, path, provenance)
    logger.info("kept the %s: %s", provenance.origin.role, path)
    return model, path


@contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    """Keep other processes from making the same model meanwhile.

    On a file system without locks, two processes may train the same model; the file that they
    leave is complete in any case.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # before hours of training
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lock = open_lock(folder / f"{key}.lock")
    except OSError as error:
        raise CheckpointError(
            f"{folder}: trained models cannot be kept here ({error.strerror}): "
            "set SPEC_OPT_CACHE to a folder that can be written"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is making this model: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("no lock: %s", error)
        yield
