"""Starts a search as a process of its own, kills it, and ends by their ids the processes that it leaves behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from conftest import CHECKOUT
from kill_evidence import notes
from processes import lives, surviving

REAP_SECONDS = 5.0
"""After a kill trial workers live for 2 to 3 seconds and finish their epoch; Ray's agents linger for a minute."""


class Kill(NamedTuple):
    """A SIGKILL and what the event log held then.

    Attributes:
        seconds: after the start.
        in_startup: before this driver handed out its first trial.
        kept: the log's complete lines.
    """

    seconds: float
    in_startup: bool
    kept: bytes


class Search:
    """One study, whose driver is started again and again by the same command.

    Attributes:
        root: ODMT_HOME.
        space: path of its space file.
        words: what the user would have typed after ``python``.
        kills: so far.
        process: the driver, None before the first start.
        startup: seconds that a start is expected to need until its first epoch begins; what was seen last.
        left: what killed drivers left, by the time of the kill.
    """

    def __init__(self, root, ray_folder, space, *, epoch_seconds, name="killed"):
        self.root, self.space = Path(root), str(space)
        self.study = self.root / "studies" / name
        self.log = self.study / "events.jsonl"
        arguments = ["--space", self.space, "--study", name, "--where", "local", "--quiet"]
        self.words = ["launch/tune.py", *arguments]
        self._command = [sys.executable, "kill_driver.py", str(ray_folder), str(epoch_seconds), *arguments]
        path = os.pathsep.join(filter(None, [str(CHECKOUT / "tests"), str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        self._environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
        self._environment |= {"ODMT_HOME": str(self.root), "PYTHONPATH": path}
        self._output = self.root / "driver.txt"
        self.kills: list[Kill] = []
        self.startup = 0.0
        self.process: subprocess.Popen | None = None
        self.left: list[tuple[float, psutil.Process]] = []

    def __enter__(self):
        self.root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception):
        if self.process is not None and self.process.poll() is None:
            self.left += [(time.monotonic(), child) for child in descendants(self.process.pid)]
            self.process.kill()
            self.process.wait()
        surviving([process for _, process in self.left], seconds=REAP_SECONDS)
        self.reap(after=0.0)

    def start(self):
        """Start the driver, in a session of its own as from another terminal."""
        self._started, self._records, self._begun_before = time.time(), len(self._lines()), len(self._begun())
        with open(self._output, "wb") as output:
            self.process = self.another(output)

    def another(self, output):
        """Start the same command once more; the caller ends it."""
        return subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=CHECKOUT / "tests",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def output(self):
        """What the last driver has printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_for_epochs(self, count):
        """Wait until workers have begun so many epochs since this start."""
        self.wait_for(lambda: len(self._begun()) >= self._begun_before + count)
        self.startup = self._begun()[self._begun_before] - self._started

    def wait_for(self, condition, seconds=300):
        """Wait for something of a driver that is running."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the driver ended: {self.output}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain: {self.output}"
            time.sleep(0.1)

    def kill(self, seconds):
        """Kill the driver alone so many seconds from now; its children are orphaned."""
        self._wait(seconds)
        children = descendants(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        took = time.time() - self._started
        self.process.wait()
        self.left += [(time.monotonic(), child) for child in children]
        lines = self._lines()
        in_startup = not any(b'"kind":"started"' in line for line in lines[self._records :])
        begun = self._begun()[self._begun_before :]
        self.startup = begun[0] - self._started if begun else max(self.startup, took)
        self.kills.append(Kill(took, in_startup, b"".join(lines)))
        return self.kills[-1]

    def finish(self, seconds):
        """Let the driver run to its end; return its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"no end within {seconds} s: {self.output}"
            self._wait(min(2.0, seconds), may_end=True)
        return self.process.returncode

    def reap(self, after=REAP_SECONDS):
        """End what was left by drivers that were killed so many seconds ago."""
        now = time.monotonic()
        for since, process in self.left:
            if now - since >= after and lives(process):
                process.kill()  # psutil compares the time of its birth, so never another process with the same id
        self.left = [(since, process) for since, process in self.left if lives(process)]

    def _wait(self, seconds, *, may_end=False):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.process.wait(timeout=min(left, 1.0))
            except subprocess.TimeoutExpired:
                self.reap()
                continue
            assert may_end, f"the search ended before kill {len(self.kills) + 1}: {self.output}"
            return

    def _begun(self):
        """Times at which workers began epochs."""
        path = self.study / "executed.txt"
        return [note.time for note in notes(path) if note.what == "begin"] if path.exists() else []

    def _lines(self):
        """Complete lines; a torn tail is left out."""
        content = self.log.read_bytes() if self.log.exists() else b""
        return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


_FOREIGN = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_TMPDIR")


def descendants(pid):
    """Processes that a process has started, and those that they have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def last_word(output):
    """Return (lost, repeated, resumed, epochs redone) of the line that a driver ends with."""
    found = re.search(r"lost (\d+), repeated (\d+), resumed (\d+), epochs redone (\d+)", output)
    assert found, output
    return tuple(int(number) for number in found.groups())
