"""Every error that odmt raises on purpose, and the exit code a command ends with.

The tree::

    OdmtError                       1   a defect of ours that has a name
    ├── ConfigError                 2   a YAML file, a flag or --set: every problem at once
    ├── StudyError                  2   the study under that name does not allow what was asked
    │   ├── StudyChangedError       2   same name, other space, data or --set
    │   ├── StudyLockedError        2   another driver owns the study
    │   └── EventLogError           2   the study's event log is damaged, and where
    ├── DataError                   3   input data is missing, malformed or unusable
    │   ├── MissingDataError        3   not prepared yet; names the command that prepares it
    │   ├── FeatureStoreError       3   a feature or image store is unreadable, stale or partial
    │   └── SharedFeaturesError     3   shared features were written to in place
    ├── NonFiniteError              1   a loss, gradient or score is NaN or infinite
    ├── CheckpointError             3   no usable checkpoint where one is needed
    ├── GateError                   4   a promotion gate refused
    ├── ServiceError                5   MLflow, Ray or a storage cannot be reached
    └── InterruptedStudy          130   stopped by a signal; the same command goes on
"""

from collections.abc import Sequence
from pathlib import Path


class OdmtError(Exception):
    """Root of the tree; ``exit_code`` is what a command returns for it."""

    exit_code = 1


class ConfigError(OdmtError):
    """One or several problems of a configuration, told at once."""

    exit_code = 2

    def __init__(self, where: str | Path, problems: Sequence[str]) -> None:
        self.where = str(where)
        self.problems = list(problems)
        count = len(self.problems)
        if count == 1:
            text = f"{self.where}: {self.problems[0]}"
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            text = f"{self.where}: {count} problems{lines}"
        super().__init__(text)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, list[str]]]:
        """Travel between processes as what it was made of."""
        return type(self), (self.where, self.problems)


class StudyError(OdmtError):
    """The study under that name does not allow what was asked."""

    exit_code = 2


class StudyChangedError(StudyError):
    """The same study name with another space, other data or another ``--set``."""


class StudyLockedError(StudyError):
    """Another driver owns the study."""


class EventLogError(StudyError):
    """The event log is damaged somewhere else than at its torn tail."""


class DataError(OdmtError):
    """Input data is missing, malformed or unusable."""

    exit_code = 3


class MissingDataError(DataError):
    """A data set or its features have not been prepared."""


class FeatureStoreError(DataError):
    """An image or feature store is unreadable, stale or partial."""


class SharedFeaturesError(DataError):
    """Features in shared memory differ from what was loaded: someone wrote to them in place."""


class NonFiniteError(OdmtError):
    """A loss, gradient or score is NaN or infinite."""


class CheckpointError(OdmtError):
    """No usable checkpoint where one is needed."""

    exit_code = 3


class GateError(OdmtError):
    """A promotion gate refused."""

    exit_code = 4


class ServiceError(OdmtError):
    """MLflow, Ray or a storage cannot be reached."""

    exit_code = 5


class InterruptedStudy(OdmtError):
    """Stopped by a signal; everything is flushed and the same command goes on."""

    exit_code = 130
