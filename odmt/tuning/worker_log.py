"""The last lines that a worker's process logged or printed, for the report of a failure."""

import logging
import sys
from collections import deque
from typing import Any, Self

LINES = 50
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class WorkerLog(logging.Handler):
    """Keeps the last lines of the log, standard output and standard error."""

    def __init__(self, lines: int = LINES) -> None:
        """Keep so many lines."""
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self.lines: deque[str] = deque(maxlen=lines)

    @classmethod
    def installed(cls) -> Self:
        """Listen in this process in place of any earlier one: a reused worker's last trial never said goodbye."""
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, WorkerLog):
                root.removeHandler(handler)
        log = cls()
        root.addHandler(log)
        sys.stdout, sys.stderr = _Tee.over(sys.stdout, log.lines), _Tee.over(sys.stderr, log.lines)
        return log

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; what cannot be formatted is kept as it is."""
        try:
            self.lines.extend(self.format(record).splitlines())
        except Exception:
            self.lines.append(str(record.msg))

    @property
    def tail(self) -> str:
        """The kept lines."""
        return "\n".join(self.lines)


class _Tee:
    """A text stream that passes everything on and keeps its last lines."""

    def __init__(self, stream: Any, lines: deque[str]) -> None:
        self._stream, self._lines, self._begun = stream, lines, ""

    @classmethod
    def over(cls, stream: Any, lines: deque[str]) -> "_Tee":
        return cls(stream._stream if isinstance(stream, _Tee) else stream, lines)

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        self._lines.extend(line.rpartition("\r")[2] for line in whole)
        self._begun = self._begun.rpartition("\r")[2]  # a progress bar overwrites its line
        self._stream.write(text)  # Ray's stream tells nothing back
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
