import numpy as np
import pytest

from odmt.data.split import Targets
from odmt.evaluation.metrics import group_metrics, hit_rate, mrr, ndcg, ranking_metrics, user_groups

RANKS = np.array([1, 3, 11, 0], dtype=np.int32)


def test_hit_rate_and_ndcg_by_hand():
    assert hit_rate(RANKS, 10) == 0.5
    assert ndcg(RANKS, 10) == pytest.approx((1 + 0.5) / 4)


def test_mrr_reads_the_whole_ranking_and_a_miss_is_zero():
    assert mrr(RANKS) == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)


def test_every_cutoff_has_its_metrics():
    metrics = ranking_metrics(RANKS)
    assert set(metrics) == {f"{name}_at_{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)} | {"mrr"}
    assert (metrics["hr_at_5"], metrics["hr_at_20"]) == (0.5, 0.75)


def test_a_group_is_measured_by_its_own_users():
    found = group_metrics(RANKS, {"cold": np.array([False, True, True, False])})
    assert found == {
        "cold/users": 2.0,
        "cold/hr_at_10": 0.5,
        "cold/ndcg_at_10": pytest.approx(0.25),
        "cold/mrr": pytest.approx((1 / 3 + 1 / 11) / 2),
    }


def test_a_group_without_users_has_a_count_and_nothing_else():
    assert group_metrics(RANKS, {"cold": np.zeros(4, dtype=bool)}) == {"cold/users": 0.0}


def test_cold_targets_and_short_histories_by_hand():
    targets = Targets(np.array([0, 1, 3, 6]), np.array([1, 1, 2, 1, 2, 3]), np.array([4, 2, 4]))
    groups = user_groups(targets, np.array([0.0, 3.0, 2.0, 1.0, 0.0]), short_history_len=2)
    assert groups["cold"].tolist() == [True, False, True]
    assert groups["short_history"].tolist() == [True, True, False]
