"""A study's report as an artifact of its parent run."""

from pathlib import Path

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.connection import connect, unreachable
from odmt.tracking.known_runs import parent_run
from odmt.tracking.redaction import redacted

FOLDER = "report"


def log_report(home: Home, experiment: str, study_id: str, files: list[Path]) -> str:
    """Send a report's files to the study's parent run, under ``report/``; a newer report takes the place of an older.

    Args:
        home: where MLflow is.
        experiment: MLflow's experiment, the data set's name.
        study_id: the study's identity.
        files: what to send.

    Returns:
        The parent run's id.

    Raises:
        ServiceError: MLflow cannot be reached, or has no run of this study.
    """
    client = connect(home)
    try:
        found = client.get_experiment_by_name(experiment)
        parent = parent_run(client, found.experiment_id, study_id) if found is not None else None
        if parent is not None:
            for file in files:
                client.log_artifact(parent.info.run_id, str(file), FOLDER)
            return str(parent.info.run_id)
    except Exception as error:
        raise unreachable(home.tracking_uri, error) from error
    raise ServiceError(
        f"MLflow at {redacted(home.tracking_uri)} has no run of study {study_id}; its search, run again, sends what is "
        "missing"
    )
