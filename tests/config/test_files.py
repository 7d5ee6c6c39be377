"""Writing over what is there: files, links, devices, pipes, modes; and locks."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spec_opt.config import files
from spec_opt.config.files import check_unpacked, open_lock, open_plain, write_file
from spec_opt.errors import InputError
from tests.other_user import OTHER, give_away, run_unprivileged

WITHOUT_UNNAMED_FILES = "spec_opt.config.files.os.O_TMPFILE"


@pytest.fixture(params=["unnamed scratch file", "named scratch file"], autouse=True)
def scratch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test once as on a file system that has no unnamed files."""
    if request.param == "named scratch file":
        monkeypatch.delattr(WITHOUT_UNNAMED_FILES)


def test_a_file_is_written_whole_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "front.csv"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["front.csv"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_mode_stays(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "front.csv"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)


def test_an_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "front.csv"
    path.write_bytes(b"old")
    give_away(path)
    write_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_uid) == (b"new", OTHER)


@pytest.mark.parametrize("target", ["there/front.csv", "there/nothing-yet.csv"])
def test_links_are_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/front.csv").write_bytes(b"old")
    link = tmp_path / "link.csv"
    link.symlink_to(target)
    write_file(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / target).read_bytes() == b"new"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="cannot be written"):
        write_file(tmp_path / "a", b"new")


@pytest.mark.parametrize("minor", [3, 5])
def test_a_device_stays_one(tmp_path: Path, minor: int) -> None:
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("needs root")
    write_file(device, b"new")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"new" * 100_000)  # more than fits into it at once
    reader.join()
    assert read == [b"new" * 100_000]
    monkeypatch.setattr(files, "PIPE_PATIENCE_S", 0.1)
    with pytest.raises(InputError, match="a pipe that nobody reads from"):
        write_file(pipe, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_goes_on_where_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    name = str(tmp_path / name)
    script = (
        "from pathlib import Path\nfrom spec_opt.config.files import write_file\n"
        f"print('one', flush=True)\nwrite_file(Path({name!r}), b'two\\n')\nprint('three')"
    )
    out = tmp_path / "out"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    assert out.read_text() == "one\ntwo\nthree\n"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "front.csv", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            write_file(path, b"")
    with pytest.raises(InputError, match="is a URL") as caught:
        write_file(Path("postgresql://me:quokka@host/db"), b"")
    assert "quokka" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def write_new(path: Path) -> str:
    write_file(path, b"new")
    return "written"


def test_permissions_of_a_file_hold(tmp_path: Path) -> None:
    """Also where its folder would let it be replaced, and where only the file can be written."""
    folder, closed = tmp_path / "folder", tmp_path / "closed"
    for path, mode in ((folder, 0o777), (closed, 0o755)):
        path.mkdir()
        path.chmod(mode)
    kept, open_to_all = folder / "kept", closed / "open"
    for path, mode in ((kept, 0o444), (open_to_all, 0o666)):
        path.write_bytes(b"old")
        path.chmod(mode)
    give_away(folder, closed, kept, open_to_all)
    refused = run_unprivileged(tmp_path / "refused", write_new, kept)
    assert "Permission denied" in refused.stderr
    assert kept.read_bytes() == b"old"
    done = run_unprivileged(tmp_path / "done", write_new, open_to_all)
    assert (done.poll(), open_to_all.read_bytes()) == (0, b"new"), done.stderr
    assert open_to_all.stat().st_uid == OTHER


def test_a_kill_leaves_the_old_file_alone(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "named scratch file" in request.node.callspec.params.values():
        pytest.skip("a process that is killed cannot remove a file that has a name")
    path = tmp_path / "front.csv"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom spec_opt.config import files\n"
        "files.os.fchmod = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_file(Path(sys.argv[1]), b'new')"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (os.listdir(tmp_path), path.read_bytes()) == (["front.csv"], b"old")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "front.csv"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((KeyboardInterrupt, InputError)):
        write_file(path, b"new")
    assert (os.listdir(tmp_path), path.read_bytes()) == (["front.csv"], b"old")


# --- reading and locking --------------------------------------------------------------------------


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_plain(tmp_path / name) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "nothing"):
        with pytest.raises(OSError):  # noqa: PT011
            open_plain(path)


def test_a_lock_is_made_and_never_written(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    open_lock(tmp_path / "new.lock").close()
    assert (tmp_path / "new.lock").exists()
    (tmp_path / "link.lock").symlink_to(victim)
    (tmp_path / "dangling.lock").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.lock")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(OSError, match="no lock: remove it"):
            open_lock(tmp_path / f"{name}.lock")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_what_unpacks_out_of_proportion(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    check_unpacked(path, files.LARGEST_UNPACKED)
    with pytest.raises(ValueError, match="unpack to 300,000,000"):
        check_unpacked(path, 300_000_000)
    path.write_bytes(bytes(3_000_001))
    check_unpacked(path, 300_000_000)
