"""Proposals made beside the search's loop: a slow sampler holds up no report."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from odmt.config import to_mapping
from odmt.tuning.samplers import Proposal, propose
from odmt.tuning.space import Space
from odmt.tuning.state import Study


class Made(NamedTuple):
    """A proposal that is ready.

    Attributes:
        proposal: None = the space is exhausted.
        config: the configuration at its values, as nested plain values; empty where nothing is to be run.
        asof: records of the log that it was made from.
    """

    proposal: Proposal | None
    config: Mapping[str, Any]
    asof: int


class Proposer:
    """Makes one proposal at a time from a snapshot of the study, in a thread of its own."""

    def __init__(self, space: Space) -> None:
        """Propose from this space."""
        self._space = space
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposer")
        self._asked: Future[Made] | None = None

    def ask(self, study: Study) -> None:
        """Begin a proposal from the study as it stands; does nothing while one is being made."""
        if self._asked is None:
            self._asked = self._thread.submit(self._make, study.snapshot())

    @property
    def is_ready(self) -> bool:
        """Say whether ``take`` would return at once."""
        return self._asked is not None and self._asked.done()

    def take(self) -> Made:
        """Wait for the proposal that was asked for.

        Raises:
            Exception: whatever the sampler raised.
        """
        assert self._asked is not None
        asked, self._asked = self._asked, None
        return asked.result()

    def _make(self, snapshot: Study) -> Made:
        proposal = propose(self._space, snapshot)
        runs = proposal is not None and proposal.equals is None
        config = to_mapping(self._space.config_for(proposal.values)) if proposal is not None and runs else {}
        return Made(proposal, config, snapshot.records)

    def close(self) -> None:
        """Ask no more; a proposal that is being made is forgotten."""
        self._thread.shutdown(wait=False, cancel_futures=True)
