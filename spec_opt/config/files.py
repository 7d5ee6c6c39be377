"""Files as they may be found: links, pipes, devices, other modes, other owners.

`write_file` is the one way in which spec-opt writes a file.
"""

import errno
import json
import os
import re
import stat
import time
import tomllib
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from spec_opt.config.messages import brief
from spec_opt.config.outgoing import mask
from spec_opt.errors import ConfigError, OutputError

MOST_TIMES: Final = 100
LARGEST_UNPACKED: Final = 1 << 28
"""A file is refused that unpacks to more bytes than this, and than `MOST_TIMES` its own."""
LARGEST_TOML: Final = 8_000_000
"""Bytes; a list of 100,000 values takes two million."""
PIPE_PATIENCE_S = 10.0
"""How long a pipe may be without a reader."""
IN_PLACE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY})
"""Errors of a file that may be written but not replaced: its folder, its owner, a mount."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it, nor does a kill leave one.

    Links are followed. A file that exists keeps its mode and its owner; other hard links to it keep
    what it held. Only where it cannot be replaced (its folder is read-only, or it is a mount) is it
    written in place. A device, a pipe, or a descriptor of this process such as /dev/stdout is
    written to as it is.

    Raises:
        OutputError: the path cannot be written, is a folder, or a pipe that nobody reads.
    """
    if _URL.match(str(path)):
        raise OutputError(f"{mask(str(path))}: is a URL; name a file")
    try:
        if (descriptor := _own_descriptor(path)) is not None:
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(content)
        elif (found := _status(path)) is None or stat.S_ISREG(found.st_mode):
            _replace(Path(os.path.realpath(path)), content, found)
        elif stat.S_ISDIR(found.st_mode):
            raise OutputError(f"{path}: cannot be written: it is a folder")
        else:
            with open(_open_special(path), "wb") as special:
                special.write(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _status(path: Path) -> os.stat_result | None:
    """What is at a path, its links followed; None if nothing is."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _own_descriptor(path: Path) -> int | None:
    """The number of the open descriptor that a path means, as /dev/stdout does on Linux."""
    own = os.path.realpath("/proc/self/fd")
    for _ in range(40):  # links may run in a circle
        if not path.is_symlink():
            return None
        if os.path.realpath(path.parent) == own and path.name.isdecimal():
            return int(path.name)
        path = path.parent / os.readlink(path)
    return None


def _open_special(path: Path) -> int:
    """A descriptor of a device, or of a pipe once somebody reads from it."""
    deadline = time.monotonic() + PIPE_PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > deadline:
                raise OSError(errno.ENXIO, "it is a pipe that nobody reads from") from None
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _replace(path: Path, content: bytes, before: os.stat_result | None) -> None:
    """Put a new file in the place of `before`, or of nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if before is not None and not os.access(path, os.W_OK):  # replacing it would need no right
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    scratch = path.with_name(f".{uuid.uuid4().hex}.spec-opt")
    try:
        if not _write_unnamed(scratch, content, before):
            with scratch.open("xb") as file:
                _fill(file, content, before)
        scratch.replace(path)
    except OSError as error:
        if before is None or error.errno not in IN_PLACE:
            raise
        path.write_bytes(content)
    finally:
        with suppress(OSError):
            scratch.unlink()


def _write_unnamed(scratch: Path, content: bytes, before: os.stat_result | None) -> bool:
    """Write a file that gets its name only once it is whole: a process that is killed leaves none.

    False where the system or the file system does not know such files.
    """
    try:
        descriptor = os.open(scratch.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return False
    with open(descriptor, "wb") as file:
        _fill(file, content, before)
        try:
            # With a descriptor of a folder, which is not used, the link in /proc is followed.
            os.link(f"/proc/self/fd/{descriptor}", scratch, src_dir_fd=descriptor)
        except OSError:
            return False
    return True


def _fill(file: IO[bytes], content: bytes, before: os.stat_result | None) -> None:
    """Write the content of a file that takes the place of `before`, with its owner and mode."""
    file.write(content)
    file.flush()
    if before is None:
        return
    now, descriptor = os.fstat(file.fileno()), file.fileno()
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


# --- reading and locking --------------------------------------------------------------------------


def open_plain(path: Path) -> IO[bytes]:
    """Open a file to read; a pipe or device, which might keep its reader waiting, is refused.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return file


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise if a file unpacks to `unpacked` bytes or more, and that is out of all proportion.

    Raises:
        ValueError: it does.
    """
    size = path.stat().st_size
    if unpacked > max(LARGEST_UNPACKED, MOST_TIMES * size):
        raise ValueError(f"its {size:,} bytes unpack to {unpacked:,} or more, which is refused")


def open_lock(path: Path) -> IO[bytes]:
    """Open a file that processes lock, made if it is missing; nothing is ever written into it.

    It is opened to read, because another user may have made it, and never through a link.

    Raises:
        OSError: it cannot be made or opened, or something else is in its place.
    """
    with suppress(FileExistsError):
        path.touch(exist_ok=False)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        file = open(os.open(path, flags), "rb")  # noqa: SIM115
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{path} is a link, no lock: remove it", str(path)) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, f"{path} is no plain file, no lock: remove it", str(path))
    return file


def read_document(path: Path) -> str:
    """The content of a TOML file as JSON; dates are texts.

    Raises:
        ConfigError: it is not readable, as TOML or at all.
    """
    said = f"{path}: not a readable TOML file"
    try:
        if (size := path.stat().st_size) > LARGEST_TOML:
            raise ConfigError(f"{path}: {size:,} bytes are more than a study file has")
        # Editors of some systems put a byte-order mark first.
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return json.dumps(document, default=str)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{said}: no text in UTF-8; save it as that") from error
    except RecursionError as error:
        raise ConfigError(f"{said}: too deeply nested") from error
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ConfigError(f"{said}: {brief(str(error))}") from error
    except ValueError as error:
        raise ConfigError(f"{said}: an integer has thousands of digits") from error
