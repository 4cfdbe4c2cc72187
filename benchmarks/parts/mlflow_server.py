"""MLflow's server as a process that can be killed, stopped and started again, for a benchmark and for tests."""

import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import psutil

from odmt.home import Home
from odmt.tracking.ui import server_command, server_environment


class Server:
    """One server on a SQLite database on this machine; always the same port."""

    def __init__(self, home: Home) -> None:
        self._home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = Path(home.root) / "server.log"
        self._process: subprocess.Popen | None = None

    def start(self, timeout_seconds: float = 120) -> None:
        """Start the server, and wait until it answers."""
        environment = server_environment(self._home)
        environment["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{self._home.root / 'mlflow.db'}"
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = server_command(self._home, self.port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + timeout_seconds
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Say whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL the server and all its children, whatever they are doing."""
        if self._process is None:
            return
        for process in self._family():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._process = None

    def _family(self) -> list[psutil.Process]:
        try:
            server = psutil.Process(self._process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
