"""A trial's files on their way to its run: the best checkpoint, or why it failed."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from odmt.tracking.checkpoint_files import send_checkpoint
from odmt.tracking.connection import is_passing
from odmt.tracking.events import TrialEnded
from odmt.tracking.known_runs import TrialRun
from odmt.tracking.redaction import first_line, redacted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TRIES = 5
REASON_LENGTH = 500

_log = logging.getLogger(__name__)


def send_artifacts(client: "MlflowClient", run: TrialRun, event: TrialEnded) -> dict[str, str]:
    """Send what of a trial's files is not there yet.

    Returns:
        Tags: ``odmt.checkpoint`` of a trial with a result; ``odmt.reason``, one line, of one without. A place for
        files that keeps failing while the server answers everything else (full, not writable, too small a limit) is
        told there after some tries; metrics of all other trials would wait behind these files for ever.
    """
    if event.outcome in ("completed", "stopped"):
        checkpoint = event.checkpoint
        sent = _tried(client, run, lambda: send_checkpoint(client, run.run_id, checkpoint, run.params))
        return {"odmt.checkpoint": sent}
    tags: dict[str, str] = {}
    if event.reason and (lines := event.reason.strip().splitlines()):
        tags["odmt.reason"] = lines[-1].strip()[:REASON_LENGTH]
    if text := error_text(event):
        told = _tried(client, run, lambda: _send_text(client, run.run_id, text))
        if told:
            tags["odmt.error_file"] = told
    return tags


def error_text(event: TrialEnded) -> str:
    """Return what ``error.txt`` says: traceback, reason, and the last lines of the trial's log; without secrets."""
    parts = [event.traceback, event.reason]
    if event.log_tail and event.log_tail.strip():
        parts.append(f"Last lines of the trial's log:\n{event.log_tail}")
    return redacted("\n\n".join(part.strip("\n") for part in parts if part and part.strip()))


def _send_text(client: "MlflowClient", run_id: str, text: str) -> str:
    client.log_text(run_id, text, "error.txt")
    return ""


def _tried(client: "MlflowClient", run: TrialRun, send: Callable[[], str]) -> str:
    try:
        return send()
    except Exception as error:
        client.get_run(run.run_id)  # raises where the server is away altogether: then nothing is given up
        run.artifact_failures += 1
        if is_passing(error) and run.artifact_failures < TRIES:
            raise
        _log.warning("files of run %s are not in MLflow: %s", run.run_id, first_line(error))
        return f"missing: {first_line(error)}"
