"""From ranks to hit rate, normalised discounted cumulative gain and mean reciprocal rank; groups of users apart."""

from collections.abc import Collection, Mapping

import numpy as np

from odmt.data.split import Targets

CUTOFFS = (5, 10, 20)
"""Lengths of the recommended list for which metrics are given."""

SELECTION_METRIC = "ndcg_at_10"
"""Trials and epochs are chosen by this metric of the fused head, on validation targets."""

GROUP_METRICS = ("hr_at_10", "ndcg_at_10", "mrr")
"""What is reported of a group of users."""


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
    return float(user_ndcg(ranks, cutoff).mean())


def user_ndcg(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Return each user's share in ``ndcg``: float64 ``(users,)``."""
    hit = (ranks >= 1) & (ranks <= cutoff)
    return np.where(hit, 1.0 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)


def mrr(ranks: np.ndarray) -> float:
    """Mean of 1 / rank over users, however far down; 0 for a target that cannot be hit.

    Args:
        ranks: int ``(users,)``, 1 = best, 0 = the target cannot be hit.
    """
    return float(np.where(ranks >= 1, 1.0 / np.maximum(ranks, 1), 0.0).mean())


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Return ``hr_at_k`` and ``ndcg_at_k`` for every cutoff, and ``mrr``."""
    metrics = {f"hr_at_{cutoff}": hit_rate(ranks, cutoff) for cutoff in CUTOFFS}
    return metrics | {f"ndcg_at_{cutoff}": ndcg(ranks, cutoff) for cutoff in CUTOFFS} | {"mrr": mrr(ranks)}


def group_metrics(ranks: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Measure groups of users apart.

    Args:
        ranks: int ``(users,)``, 1 = best, 0 = the target cannot be hit.
        groups: bool ``(users,)`` by name, True at members.

    Returns:
        ``<group>/users``, and ``<group>/<name>`` of ``GROUP_METRICS`` where the group has users.
    """
    found: dict[str, float] = {}
    for group, members in groups.items():
        found[f"{group}/users"] = float(members.sum())
        if members.any():
            metrics = ranking_metrics(ranks[members])
            found |= {f"{group}/{name}": metrics[name] for name in GROUP_METRICS}
    return found


def user_groups(targets: Targets, training_counts: np.ndarray, short_history_len: int) -> dict[str, np.ndarray]:
    """Tell apart the users on whom a recommender has little to go.

    Args:
        targets: histories and targets.
        training_counts: ``(N + 1,)``, training interactions by compact id.
        short_history_len: the longest history that counts as short.

    Returns:
        bool ``(users,)`` each: ``cold``, the target item has no training interaction; ``short_history``, the history
        holds at most ``short_history_len`` items.
    """
    return {
        "cold": training_counts[targets.target] == 0,
        "short_history": np.diff(targets.offsets) <= short_history_len,
    }


def reported_heads(names: Collection[str], prefix: str = "") -> dict[str, str]:
    """Return the heads that metrics were reported for, the fused one first.

    Args:
        names: of metrics.
        prefix: what the fused head's names begin with.

    Returns:
        Head to what its metrics' names begin with.
    """
    heads = {"fused": prefix} | {branch: f"{prefix}{branch}/" for branch in ("id", "text", "image")}
    return {head: start for head, start in heads.items() if start + SELECTION_METRIC in names}
