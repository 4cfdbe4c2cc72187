import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odmt.home import Home

CONNECT = "from odmt.home import Home; from odmt.tracking.connection import connect; connect(Home.from_environment())"


@pytest.fixture(scope="session")
def parallel_start(tmp_path_factory):
    """Two processes that make the same MLflow database at once; done once: the migrations cost seconds."""
    folder = tmp_path_factory.mktemp("mlflow-template")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["ODMT_HOME"] = str(folder)
    processes = [
        subprocess.Popen([sys.executable, "-c", CONNECT], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in processes]
    return folder / "mlflow.db", [process.returncode for process in processes], errors


@pytest.fixture(scope="session")
def _template(parallel_start):
    """A migrated, empty database."""
    return parallel_start[0]


@pytest.fixture
def home(_template: Path, tmp_path: Path, monkeypatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "home"
    root.mkdir()
    shutil.copy(_template, root / "mlflow.db")
    return Home(root)


@pytest.fixture
def client(home):
    from odmt.tracking.connection import connect

    return connect(home)
