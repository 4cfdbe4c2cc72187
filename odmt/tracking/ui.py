"""MLflow's server on our database: ``python -m odmt.tracking.ui [--port 5000]``.

One worker, on this machine only, without the job runners (seven processes that outlive the server), artifacts served
from ODMT_HOME. Ends with Ctrl-C or SIGTERM, and takes every process that it started with it.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

from odmt.commands import Parser, run
from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.connection import connect
from odmt.tracking.redaction import redacted

GRACE_SECONDS = 5.0


def server_command(home: Home, port: int) -> list[str]:
    """Return the command line of the server; everybody on the machine may read it, so the database is not in it."""
    return [
        sys.executable, "-m", "mlflow", "server",
        "--default-artifact-root", home.artifacts.as_uri(),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--workers", "1",
    ]  # fmt: skip


def server_environment(home: Home) -> dict[str, str]:
    """Return the environment of the server."""
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": home.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def serve(home: Home, port: int) -> int:
    """Run the server until a signal ends it.

    Returns:
        0 after a signal, else the server's own exit code.

    Raises:
        ServiceError: the tracking URI is a server already, or the database cannot be opened.
    """
    uri = home.tracking_uri
    if uri.startswith("http"):
        raise ServiceError(f"MLFLOW_TRACKING_URI is a server already: open {redacted(uri)} in a browser")
    connect(home)
    home.artifacts.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(server_command(home, port), env=server_environment(home), start_new_session=True)
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended and server.poll() is None:
            time.sleep(0.1)
    finally:
        code = _end_all(server)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0 if ended else code


def _end_all(server: "subprocess.Popen[bytes]") -> int:
    """End the server and all its children, by their ids."""
    try:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    return server.wait()


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def main(argv: list[str] | None = None) -> int:
    """Open MLflow's UI on the database of ODMT_HOME."""
    parser = Parser("Open MLflow's UI on the database under ODMT_HOME.")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: 5000)")

    def body(arguments: argparse.Namespace) -> int:
        return serve(Home.from_environment(), arguments.port)

    return run(parser, body, argv)


if __name__ == "__main__":
    sys.exit(main())
