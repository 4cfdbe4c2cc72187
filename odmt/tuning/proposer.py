"""Proposals made beside the search's loop: a slow sampler holds up no report."""

from concurrent.futures import Future, ThreadPoolExecutor

from odmt.tuning.samplers import Proposal, propose
from odmt.tuning.space import Space
from odmt.tuning.state import Study


class Proposer:
    """Makes one proposal at a time from a snapshot of the study, in a thread of its own."""

    def __init__(self, space: Space) -> None:
        """Propose from this space."""
        self._space = space
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposer")
        self._asked: Future[Proposal | None] | None = None
        self._asof = 0

    def ask(self, study: Study) -> None:
        """Begin a proposal from the study as it stands; does nothing while one is being made."""
        if self._asked is None:
            snapshot = study.snapshot()
            self._asof = snapshot.records
            self._asked = self._thread.submit(propose, self._space, snapshot)

    @property
    def is_ready(self) -> bool:
        """Say whether ``take`` would return at once."""
        return self._asked is not None and self._asked.done()

    def take(self) -> tuple[Proposal | None, int]:
        """Wait for the proposal that was asked for; return it with the number of records that it was made from.

        Raises:
            Exception: whatever the sampler raised.
        """
        assert self._asked is not None
        asked, self._asked = self._asked, None
        return asked.result(), self._asof

    def close(self) -> None:
        """Ask no more; a proposal that is being made is forgotten."""
        self._thread.shutdown(wait=False, cancel_futures=True)
