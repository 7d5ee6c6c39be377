"""The tree of errors: drawn as it is, and with the exit codes it names."""

import inspect
import re

import pytest

from spec_opt import errors
from spec_opt.errors import InputError, LastingStoreError, SpecOptError, StudyError, WorkError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def drawn() -> dict[str, tuple[int, str]]:
    """Each class in the module's drawing: its depth, and what stands beside it."""
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+Error)\b *(.*)", line)
        if match:
            tree[match[2]] = (len(match[1]) // 4, match[3])
    return tree


def test_the_drawing_shows_every_class_in_its_place() -> None:
    tree = drawn()

    assert set(tree) == {error.__name__ for error in CLASSES}
    above: list[str] = []
    for name, (depth, _) in tree.items():
        above = above[:depth]
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [above[-1] if above else "Exception"]
        above.append(name)


MENDABLE = (InputError, StudyError, LastingStoreError)


@pytest.mark.parametrize("error", CLASSES)
def test_every_class_has_its_exit_code(error: type[SpecOptError]) -> None:
    assert issubclass(error, SpecOptError)
    assert error.exit_code == (2 if issubclass(error, MENDABLE) else 1)
    assert error.__doc__


@pytest.mark.parametrize("error", [InputError, StudyError, WorkError, LastingStoreError])
def test_the_drawing_names_the_exit_codes(error: type[SpecOptError]) -> None:
    assert f"exit code {error.exit_code}" in drawn()[error.__name__][1]


def test_messages_are_kept() -> None:
    with pytest.raises(SpecOptError, match=r"^the file: what is wrong$"):
        raise errors.DataError("the file: what is wrong")
