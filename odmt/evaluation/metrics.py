"""From ranks to hit rate and normalised discounted cumulative gain."""

import numpy as np

CUTOFFS = (5, 10, 20)
"""Lengths of the recommended list for which metrics are given."""

SELECTION_METRIC = "ndcg_at_10"
"""Trials and epochs are chosen by this metric of the fused head, on validation targets."""


def hit_rate(ranks: np.ndarray, cutoff: int) -> float:
    """Share of users whose target stands among the first ``cutoff`` items.

    Args:
        ranks: int ``(users,)``, 1 = best, 0 = the target cannot be hit (a miss).
        cutoff: length of the list.
    """
    return float(((ranks >= 1) & (ranks <= cutoff)).mean())


def ndcg(ranks: np.ndarray, cutoff: int) -> float:
    """Mean of 1 / log2(rank + 1) over users, 0 past the cutoff; one relevant item a user.

    Args:
        ranks: int ``(users,)``, 1 = best, 0 = the target cannot be hit (a miss).
        cutoff: length of the list.
    """
    hit = (ranks >= 1) & (ranks <= cutoff)
    return float(np.where(hit, 1.0 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0).mean())


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Return ``hr_at_k`` and ``ndcg_at_k`` for every cutoff."""
    metrics = {f"hr_at_{cutoff}": hit_rate(ranks, cutoff) for cutoff in CUTOFFS}
    return metrics | {f"ndcg_at_{cutoff}": ndcg(ranks, cutoff) for cutoff in CUTOFFS}
