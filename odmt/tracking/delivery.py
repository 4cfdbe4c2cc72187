"""What the mirror's worker thread sends: every request is such that sending it again changes nothing.

MLflow's SQL stores keep one row for each (run, key, step, timestamp, value), and look for the rows that are there where
a batch meets one (``SqlAlchemyStore._log_metrics_once``, 3.17). Everything sent bears the log's own times, so a batch
whose answer got lost may be sent again. Making a run is the exception; ``known_runs`` mends it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from odmt.home import Home
from odmt.tracking.artifacts import send_artifacts
from odmt.tracking.connection import connect, experiment_id
from odmt.tracking.events import Event, Study, StudyEnded, StudyTagged, TrialEnded, TrialEpoch, TrialStarted
from odmt.tracking.known_runs import (
    ATTEMPTS_TAG,
    EPOCH_KEY,
    PARENT_TAG,
    RUNNING,
    UNFINISHED,
    TrialRun,
    known_runs,
)
from odmt.tracking.redaction import redacted
from odmt.tracking.values import best_name, chunks, flat, split_finite

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

METRICS_A_REQUEST, PARAMS_A_REQUEST = 1000, 100
TAG_LENGTH, PARAM_LENGTH = 5000, 6000
STATUSES = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


def _nobody_counts(num_events: int) -> None:
    del num_events


class Delivery:
    """One connection that turns events into requests; finds by tag what an earlier process already sent."""

    def __init__(self, home: Home, study: Study, *, reopens: bool = True) -> None:
        """Connect, and find or make the experiment and the parent run.

        Args:
            home: where MLflow is.
            study: what the parent run says.
            reopens: a trial that goes on makes an ended parent run RUNNING again.

        Raises:
            ServiceError: MLflow cannot be reached.
        """
        self._study = study
        self._client: MlflowClient = connect(home)
        self.experiment_id = experiment_id(self._client, home, study.experiment)
        parent, self._trials = known_runs(self._client, self.experiment_id, study.study_id)
        tags = {"odmt.study": study.name, "odmt.study_id": study.study_id, **study.tags}
        self._made_parent = parent is None
        if parent is None:
            tags = {name: redacted(value) for name, value in tags.items()}
            parent = self._client.create_run(self.experiment_id, tags=tags, run_name=study.name)
        self.parent_run_id = str(parent.info.run_id)
        self._open = parent.info.status == "RUNNING"
        self._reopens = reopens
        self._completed = parent.info.status == "FINISHED" and parent.data.tags.get("odmt.outcome") == "completed"
        known = parent.data.params
        self._send(
            self.parent_run_id,
            params={name: value for name, value in study.params.items() if name not in known},
            # Params are immutable: what --extend raised shows as tags.
            tags={
                f"odmt.now.{name}": str(value)
                for name, value in study.params.items()
                if known.get(name, _param(value)) != _param(value)
            },
        )

    def probe(self) -> None:
        """Ask for little, and raise where nobody answers: looking again is slow for a large study."""
        self._client.search_experiments(max_results=1)

    def look_again(self) -> None:
        """Find runs whose making was answered to nobody; call after an outage."""
        in_use = {self.parent_run_id, *(run.run_id for run in self._trials.values())}
        known = known_runs(self._client, self.experiment_id, self._study.study_id, in_use)
        for trial_id, run in known.trials.items():
            self._trials.setdefault(trial_id, run)

    def end_parent_if_made(self, at_ms: int) -> None:
        """End the parent run where this connection made it: no search is at work that would."""
        if self._made_parent:
            self._client.set_terminated(self.parent_run_id, "FINISHED", at_ms)

    def run_id(self, trial_id: str) -> str:
        """Return the run of a trial that was sent."""
        return self._trials[trial_id].run_id

    def send(self, events: Sequence[Event], arrived: Callable[[int], None] = _nobody_counts) -> None:
        """Send events in order; several epochs of one trial travel as one request.

        Args:
            events: the oldest first.
            arrived: told how many more of them have arrived, each time that some have.
        """
        for parts in _joined(events):
            for part in parts:
                match part:
                    case TrialStarted():
                        self._start(part)
                    case TrialEnded():
                        self._end(part)
                    case StudyTagged():
                        self._send(self.parent_run_id, tags=part.tags)
                    case StudyEnded():
                        self._end_study(part)
                    case list():
                        self._epochs(part)
            arrived(sum(len(part) if isinstance(part, list) else 1 for part in parts))

    def _start(self, event: TrialStarted) -> None:
        tags = {**self._study.tags, **(event.tags or {})}
        attempts = tags.get(ATTEMPTS_TAG)
        run = self._trials.get(event.trial_id)
        # The log sent again after a restart tells of attempts that are known; what ended with them stays ended.
        goes_on = run is None or (not run.complete and (attempts is None or attempts != run.attempts))
        if run is None:
            run = self._trials[event.trial_id] = self._make(event, tags)
            tags = {}
        elif goes_on:
            self._reopen(run.run_id)
        run.params = flat(event.params)
        if run.complete:
            return
        if goes_on and self._reopens and not self._open:
            self._reopen(self.parent_run_id)
            self._open, self._completed = True, False
        missing = {name: value for name, value in run.params.items() if name not in run.known_params}
        self._send(run.run_id, params=missing, tags=tags)
        run.known_params |= missing.keys()
        run.attempts = attempts

    def _make(self, event: TrialStarted, tags: Mapping[str, str]) -> TrialRun:
        named = {
            **tags,
            "odmt.study": self._study.name,
            "odmt.study_id": self._study.study_id,
            "odmt.trial": event.trial_id,
            PARENT_TAG: self.parent_run_id,
        }
        made = self._client.create_run(
            self.experiment_id,
            start_time=event.at_ms,
            tags={name: _tag(value) for name, value in named.items()},
            run_name=f"trial-{event.number:03d}",
        )
        return TrialRun(str(made.info.run_id), complete=False)

    def _reopen(self, run_id: str) -> None:
        self._client.update_run(run_id, status="RUNNING")
        self._client.set_tag(run_id, "odmt.outcome", RUNNING)

    def _epochs(self, events: Sequence[TrialEpoch]) -> None:
        run = self._trials[events[0].trial_id]
        new = [event for event in events if event.epoch > run.last_epoch]
        if run.complete or not new:
            return
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        for event in new:
            finite, dropped = split_finite(event.metrics)
            run.dropped |= dict.fromkeys(f"{name} of epoch {event.epoch}" for name in dropped)
            if event.seconds is not None:
                finite["seconds"] = event.seconds
            metrics += [Metric(name, value, event.at_ms, event.epoch) for name, value in finite.items()]
            # Last of its epoch: where it stands, everything before it stands too.
            metrics.append(Metric(EPOCH_KEY, event.epoch, event.at_ms, event.epoch))
        self._send(run.run_id, metrics=metrics, tags=_dropped_tag(run.dropped))
        run.last_epoch = new[-1].epoch

    def _end(self, event: TrialEnded) -> None:
        run = self._trials[event.trial_id]
        if run.complete:
            return
        from mlflow.entities import Metric

        finite, dropped = split_finite(event.best)
        run.dropped |= dict.fromkeys(f"best {name}" for name in dropped)
        best = [Metric(best_name(name), value, event.at_ms, run.last_epoch) for name, value in finite.items()]
        tags = {**_dropped_tag(run.dropped), **send_artifacts(self._client, run, event)}
        self._send(run.run_id, metrics=best, tags=tags)
        # The outcome says "complete": it goes last.
        self._terminate(run.run_id, event.outcome, event.at_ms)
        run.complete = event.outcome not in UNFINISHED

    def _end_study(self, event: StudyEnded) -> None:
        if self._completed and event.outcome == "completed":
            return  # the same study again, and no trial of it went on
        from mlflow.entities import Metric

        self.look_again()
        finite, dropped = split_finite(event.summary)
        metrics = [Metric(name, value, event.at_ms, 0) for name, value in finite.items()]
        # Interrupted: they go on with the same command, or with --extend where a budget was met.
        for run in self._trials.values():
            if not run.complete:
                self._terminate(run.run_id, "killed", event.at_ms)
        self._send(self.parent_run_id, metrics=metrics, tags=_dropped_tag(dropped))
        self._terminate(self.parent_run_id, event.outcome, event.at_ms)
        self._open, self._completed = False, event.outcome == "completed"

    def _terminate(self, run_id: str, outcome: str, at_ms: int) -> None:
        self._client.set_terminated(run_id, STATUSES[outcome], at_ms)
        self._client.set_tag(run_id, "odmt.outcome", outcome)

    def _send(
        self,
        run_id: str,
        *,
        metrics: "Sequence[Metric]" = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        all_params: list[Param] = [Param(key, _param(value)) for key, value in (params or {}).items()]
        all_tags: list[RunTag] = [RunTag(key, _tag(value)) for key, value in (tags or {}).items()]
        for part in chunks(all_params, PARAMS_A_REQUEST):
            self._client.log_batch(run_id, params=part)
        for number, chunk in enumerate(chunks(metrics, METRICS_A_REQUEST - PARAMS_A_REQUEST)):
            self._client.log_batch(run_id, metrics=chunk, tags=all_tags if number == 0 else ())
        if all_tags and not metrics:
            self._client.log_batch(run_id, tags=all_tags)


def _param(value: Any) -> str:
    return redacted(str(value))[:PARAM_LENGTH]


def _tag(value: Any) -> str:
    return redacted(str(value))[:TAG_LENGTH]


def _dropped_tag(dropped: Collection[str]) -> dict[str, str]:
    return {"odmt.non_finite": "; ".join(dropped)} if dropped else {}


def _joined(events: Sequence[Event]) -> Iterator[list[Event | list[TrialEpoch]]]:
    """Join the epochs of each trial until another kind of event comes; what is yielded together arrives together."""
    epochs: dict[str, list[TrialEpoch]] = {}
    for event in events:
        if isinstance(event, TrialEpoch):
            epochs.setdefault(event.trial_id, []).append(event)
            continue
        if epochs:
            yield list(epochs.values())
            epochs = {}
        yield [event]
    if epochs:
        yield list(epochs.values())
