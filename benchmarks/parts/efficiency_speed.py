"""Samplers without their copying: thousands of searches rebuild the same Optuna trials for every single proposal.

What is proposed stays the same (a test compares); only who computes it, and what is copied on the way, changes.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from odmt.tuning import proposer, samplers
from odmt.tuning.space import Space
from odmt.tuning.state import Reuse, Trial


class _Here:
    """A thread pool that is no thread: what is submitted is done at once."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **how: Any) -> None:
        del how


@contextmanager
def quick_proposals() -> Iterator[None]:
    """Propose in the caller's thread, keep the Optuna trials of one search, and let Optuna copy them shallowly.

    For one search at a time: trials are told apart by their ids.
    """
    from optuna.storages import _in_memory

    frozen = samplers._frozen
    known: dict[tuple[Any, ...], Any] = {}

    def kept(space: Space, trial: Trial, metrics: list[str], reuse: Reuse | None = None) -> Any:
        key = (trial.trial_id, trial.state, len(trial.epochs), id(reuse))
        if key not in known:
            known[key] = (frozen(space, trial, metrics, reuse), reuse)  # the reuse too, so that its id stays its own
        return known[key][0]

    with (
        mock.patch.object(samplers, "_frozen", kept),
        mock.patch.object(proposer, "ThreadPoolExecutor", return_value=_Here()),
        mock.patch.object(_in_memory, "copy", SimpleNamespace(copy=copy.copy, deepcopy=copy.copy)),
    ):
        yield
