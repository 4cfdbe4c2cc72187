"""Events on their way to MLflow: queued without waiting, sent in order by a thread, kept while the server is away."""

import logging
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue

from odmt.errors import ServiceError
from odmt.home import Home
from odmt.tracking.connection import is_passing, unreachable
from odmt.tracking.delivery import Delivery
from odmt.tracking.events import Event, Study
from odmt.tracking.redaction import first_line, redacted
from odmt.tracking.values import time_span

EVENTS_A_TURN = 200
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 15.0
LAST_TRY_SECONDS = 5.0
# Importing MLflow and making its database takes up to 20 s on a slow disk; MLflow's own tries at a database that is
# away take 100 s.
START_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Outbox:
    """A queue, and the thread that empties it into MLflow.

    Queued events are references to what the caller holds anyway, about 200 bytes each: a search of 1,000 trials and
    50,000 epochs that never reaches its server keeps 10 MB waiting. So the queue has no bound and drops nothing.
    """

    def __init__(self, home: Home, study: Study) -> None:
        """Remember where to and whose; nothing is imported or connected yet."""
        self._home = home
        self._study = study
        # The caller appends and rings; only the thread takes away, and only what has arrived. Neither needs a lock, so
        # the caller never waits for a thread that sends.
        self._events: deque[Event] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._first_try = threading.Event()
        self._first_error: Exception | None = None
        self._answered = threading.Event()
        self._away_since: float | None = None
        self._delivery: Delivery | None = None
        self._arrived = self._dropped = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker thread, which connects and finds or makes experiment and parent run; wait for that.

        A caller may catch the error and go on: the thread keeps trying.

        Raises:
            ServiceError: MLflow cannot be reached now.
        """
        self._thread = threading.Thread(target=self._work, name="odmt-mlflow", daemon=True)
        self._thread.start()
        if not self._first_try.wait(START_SECONDS):
            raise unreachable(self.url, TimeoutError(f"no answer within {time_span(START_SECONDS)}"))
        error, self._first_error = self._first_error, None
        if error is not None:
            raise error if isinstance(error, ServiceError) else unreachable(self.url, error)

    def close(self, timeout_seconds: float = 60) -> int:
        """Send what is queued, within a time; a server that is away already gets one more try of a few seconds.

        Returns:
            Events that have not arrived; 0 = all sent.
        """
        self._answered.clear()
        away = self._away_since is not None
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        self._bell.put(None)
        if self._thread is not None:
            if away and self._events and not self._answered.wait(min(timeout_seconds, LAST_TRY_SECONDS)):
                self._deadline = 0.0
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return len(self._events) + self._dropped

    @property
    def pending(self) -> int:
        """Events that have not arrived yet."""
        return len(self._events)

    @property
    def standing(self) -> str:
        """How MLflow stands, in one short sentence for the screen; without secrets."""
        waiting, since = self.pending, self._away_since
        events = "1 event waits" if waiting == 1 else f"{waiting} events wait"
        if since is not None:
            words = f"{events}, away for {time_span(time.monotonic() - since)}"
        else:
            words = events if waiting else "up to date"
        refused = f", {self._dropped} refused" if self._dropped else ""
        return f"MLflow at {self.url}: {words}{refused}"

    @property
    def url(self) -> str:
        """Where the runs go, for people: without the account that the address may hold."""
        return redacted(self._home.tracking_uri)

    @property
    def parent_run_id(self) -> str | None:
        """The study's run; None while MLflow has not been reached."""
        return self._delivery.parent_run_id if self._delivery else None

    @property
    def run_page(self) -> str | None:
        """The page of the study's run, without the account; None = no server, or it has not been reached."""
        made = self._delivery
        if made is None or not self.url.startswith(("http://", "https://")):
            return None
        return f"{self.url.rstrip('/')}/#/experiments/{made.experiment_id}/runs/{made.parent_run_id}"

    def put(self, event: Event) -> None:
        """Queue an event: an append and a ring, microseconds whatever the server does."""
        self._events.append(event)
        self._bell.put(None)

    def _work(self) -> None:
        wait = FIRST_WAIT_SECONDS
        try:
            while self._next_turn():
                last_try = self._closing.is_set() and self._away_since is not None
                before = self._arrived
                try:
                    self._turn()
                except Exception as error:
                    if not self._first_try.is_set():
                        self._first_error = error
                    if self._later(error):
                        if self._arrived > before:
                            wait, last_try = FIRST_WAIT_SECONDS, False
                        if last_try:
                            return
                        self._rest(wait)
                        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                        continue
                wait, self._away_since = FIRST_WAIT_SECONDS, None
                self._answered.set()
                self._first_try.set()
        finally:
            self._answered.set()
            self._first_try.set()

    def _next_turn(self) -> bool:
        """Wait for something to do: to connect, or events; False = nothing is left, or no time."""
        while self._delivery is not None and not self._events and not self._closing.is_set():
            self._bell.get()
        self._silence()
        if self._closing.is_set():
            return bool(self._events) and time.monotonic() < self._deadline
        return True

    def _silence(self) -> None:
        while True:
            try:
                self._bell.get_nowait()
            except Empty:
                return

    def _rest(self, seconds: float) -> None:
        """Wait before another try; closing ends it early, since a last try is due then."""
        self._first_try.set()
        if self._closing.is_set():
            time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
        else:
            self._closing.wait(seconds)

    def _turn(self) -> None:
        if self._delivery is None:
            self._delivery = Delivery(self._home, self._study)
        elif self._away_since is not None:
            try:
                self._delivery.probe()
                self._answered.set()
                self._delivery.look_again()
            except Exception as error:  # of no event, so none may be dropped for it
                raise unreachable(self.url, error) from error
        events = [self._events[place] for place in range(min(len(self._events), EVENTS_A_TURN))]
        if not events:
            return
        before = self._arrived
        try:
            self._delivery.send(events, self._take_away)
        except Exception as error:
            left = events[self._arrived - before :]
            if len(left) == 1 or is_passing(error):
                raise
            # One of them is refused for good: send them one by one, so that only that one is lost.
            for event in left:
                self._delivery.send([event], self._take_away)

    def _take_away(self, num_events: int) -> None:
        """Forget the oldest events: they have arrived, and so the server is there."""
        for _ in range(num_events):
            self._events.popleft()
        self._arrived += num_events
        self._away_since = None

    def _later(self, error: Exception) -> bool:
        """Say whether to try again; an event that MLflow refuses for good is dropped with a warning."""
        if self._delivery is None or isinstance(error, ServiceError) or is_passing(error):
            level = logging.DEBUG  # told once an outage
            if self._away_since is None:
                self._away_since, level = time.monotonic(), logging.WARNING
            _log.log(level, "MLflow at %s is away; %d events wait: %s", self.url, self.pending, first_line(error))
            return True
        event = self._events.popleft()
        self._dropped += 1
        _log.warning("MLflow refuses %s: %s", redacted(_shown(event)), first_line(error))
        return False


def _shown(event: Event) -> str:
    """Return what an event is, in one line."""
    parts = [f"{name}={getattr(event, name)!r}" for name in ("trial_id", "epoch", "outcome") if hasattr(event, name)]
    return f"{type(event).__name__}({', '.join(parts)})"
