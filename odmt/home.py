"""Where things lie: every path under ODMT_HOME is made here and nowhere else."""

import os
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Home:
    """The root of everything a person makes: data, features, studies, the MLflow database, artifacts."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Return ``$ODMT_HOME``, or ``var/`` in the checkout."""
        value = os.environ.get("ODMT_HOME")
        return cls(Path(value).expanduser().absolute() if value else CHECKOUT / "var")

    def dataset(self, name: str) -> Path:
        """Return the folder of a prepared data set: interactions, catalogue, images."""
        return self.root / "data" / name

    def features(self, dataset: str) -> Path:
        """Return the folder of a data set's feature stores."""
        return self.root / "features" / dataset

    def study(self, name: str) -> Path:
        """Return the folder of a study: event log, lock, trials' checkpoints."""
        return self.root / "studies" / name

    @property
    def tracking_uri(self) -> str:
        """Return ``$MLFLOW_TRACKING_URI``, or the SQLite database under this root."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Return the folder of MLflow's artifacts when the database is ours."""
        return self.root / "artifacts"


def code_version() -> str:
    """Return the package's version, and in a git checkout the commit, marked ``dirty`` when files differ from it."""
    version = metadata.version("odmt")
    if not (CHECKOUT / ".git").exists():
        return version
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{found}"
