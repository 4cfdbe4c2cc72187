"""The way to MLflow: quiet, bounded in time, and safe when two processes make the database at once.

Costs, measured on 2 cores: importing MLflow 2 to 4 s, making a SQLite database (migrations) 3 to 17 s, connecting to
one that exists 1 s, one ``log_batch`` 0.01 s. So MLflow is imported inside functions only.
"""

import contextlib
import fcntl
import glob
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.redaction import RedactingFilter, first_line, redacted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SETTINGS = {
    # MLflow's own retries send POST again too: a run whose making was not answered would be made twice, unseen. The
    # mirror tries again by itself, and looks first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}
_SQLITE = "sqlite:///"


def prepare_environment() -> None:
    """Bound MLflow's retries (a dead server costs 246 s by default) and silence it; what the user set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.utils.git_utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def connect(home: Home) -> "MlflowClient":
    """Return a client whose first request has been answered; makes the SQLite database if there is none.

    Raises:
        ServiceError: MLflow cannot be reached.
    """
    prepare_environment()
    uri = client_uri(home)
    try:
        with _one_at_a_time(uri):
            _make_database(uri)
            from mlflow.tracking import MlflowClient

            _keep_secrets_out_of_logs()
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        raise unreachable(uri, error) from None  # MLflow's own errors quote the URI as it is
    return client


def client_uri(home: Home) -> str:
    """Return the tracking URI for MLflow's own functions: an account in a web address moves to the environment.

    There MLflow reads it too, and the address may then stand in its errors, logs and tables.
    """
    uri = home.tracking_uri
    parts = urlsplit(uri) if uri.startswith(("http://", "https://")) else None
    if parts is None or not parts.username or not parts.password:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _keep_secrets_out_of_logs() -> None:
    """Let MLflow's and the database's loggers, once they are set up, write no secrets."""
    for name in ("", "mlflow", "alembic", "sqlalchemy", "urllib3"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(known, RedactingFilter) for known in handler.filters):
                handler.addFilter(RedactingFilter())


def unreachable(uri: str, error: BaseException) -> ServiceError:
    """Return the sentence for an MLflow that does not answer; without secrets."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    right = "check the file and its folder" if uri.startswith(_SQLITE) else "start it or unset MLFLOW_TRACKING_URI"
    return ServiceError(f"MLflow at {redacted(uri)} cannot be reached: {first_line(error)}; {right}")


def is_passing(error: BaseException) -> bool:
    """Say whether sending again later may help: the server is away, busy or locked, not: the request is wrong."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        # An answer that is not JSON came from something that stands in front of the server.
        foreign = not isinstance(error, RestException) and str(error).startswith("API request to")
        return status >= 500 or status in (401, 403, 408, 429) or foreign
    return isinstance(error, OSError | json.JSONDecodeError)


def artifact_location(home: Home, experiment: str) -> str | None:
    """Return where a new experiment keeps its artifacts: under ODMT_HOME, or the server's own choice (None)."""
    if "MLFLOW_TRACKING_URI" in os.environ and not home.tracking_uri.startswith(_SQLITE):
        return None
    return (home.artifacts / experiment).as_uri()


def experiment_id(client: "MlflowClient", home: Home, name: str) -> str:
    """Find an experiment by its name, or make it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # The UI opens an experiment of this kind on its runs instead of on its GenAI pages.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            place = artifact_location(home, name)
            return str(client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # somebody else made it between the two requests
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Hold a file lock beside a SQLite database: two processes that migrate it at once break it."""
    if not uri.startswith(_SQLITE):
        yield
        return
    database = _database(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(database.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_database(uri: str) -> None:
    """Make a missing SQLite database aside and move it into place; call under the lock.

    Migrations killed midway leave tables that no later start gets past, so only a finished database gets the name.
    """
    if not uri.startswith(_SQLITE):
        return
    database = _database(uri)
    for left in database.parent.glob(
        f"{glob.escape(database.name)}.[0-9]*.tmp*"
    ):  # its maker is dead: the lock is ours
        left.unlink()
    if database.exists() and database.stat().st_size:
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    aside = database.with_name(f"{database.name}.{os.getpid()}.tmp")
    engine = create_sqlalchemy_engine(f"{_SQLITE}{aside}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(aside, database)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])
