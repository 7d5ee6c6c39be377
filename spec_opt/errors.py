"""Every error that spec-opt raises on purpose.

    SpecOptError
    ├── InputError              what the user gave is wrong: exit code 2
    │   ├── ConfigError         a study file
    │   ├── DataError           a series: file, columns, length
    │   ├── CheckpointError     a model file
    │   ├── OutputError         a file that cannot be written
    │   └── StoreURLError       a storage URL that is not supported or cannot be read
    ├── StudyError              the study in the store does not fit what is asked: exit code 2
    └── WorkError               the work itself failed: exit code 1
        ├── TrainingError       a loss that is not finite
        ├── DecodingError       a forecast that is not finite
        └── StoreError          the store cannot be reached, or lost what it held
            └── LastingStoreError   and that does not pass by itself: exit code 2

A message is one line: the field, the value, the remedy.
"""


class SpecOptError(Exception):
    """Base of all errors that spec-opt raises on purpose."""

    exit_code = 1


class InputError(SpecOptError):
    """What the user gave is wrong, and they can mend it."""

    exit_code = 2


class ConfigError(InputError):
    """A study file is missing, malformed, or holds a value that is not allowed."""


class DataError(InputError):
    """A series is missing, malformed, or too short for what is asked of it."""


class CheckpointError(InputError):
    """A model file is missing, malformed, or does not fit its network."""


class OutputError(InputError):
    """A file cannot be written where it was to go."""


class StoreURLError(InputError):
    """A storage URL is malformed or names a kind of store that is not supported."""


class StudyError(SpecOptError):
    """A study in the store is absent, or was made with something else than what is asked now."""

    exit_code = 2


class WorkError(SpecOptError):
    """The work itself failed; the input was good."""


class TrainingError(WorkError):
    """Training met a loss that is not finite."""


class DecodingError(WorkError):
    """Decoding met a model output that is not finite, or was asked for the impossible."""


class StoreError(WorkError):
    """The store cannot be reached, or does not hold what it held before."""


class LastingStoreError(StoreError):
    """A store that cannot be used until somebody mends it: a wrong password, another's tables."""

    exit_code = 2
