"""The replay of benchmarks/search_efficiency.py: what is counted, on a table that can be checked by hand."""

import dataclasses
from pathlib import Path

import pytest
from parts.efficiency_replay import MemoryLog, Method, Point, replay, searched
from parts.efficiency_report import Search, again, quartiles, ratio
from parts.efficiency_speed import quick_proposals
from parts.efficiency_table import Curve, Table, read_table

from odmt.errors import DataError
from odmt.home import CHECKOUT
from odmt.tuning.samplers import grid
from odmt.tuning.space import Space, load_space

SPACE_FILE = """
fixed: {train: {max_epochs: 3}}
incumbent: {train.learning_rate: 1e-4, train.batch_size: 32}
axes:
  train.learning_rate: {type: quniform, low: 1e-4, high: 4e-4, q: 3e-4}
  train.batch_size: {type: choice, values: [32, 64]}
sampler: {name: tpe, seed: 1}
scheduler: {name: asha, grace_period: 1, reduction_factor: 2}
"""
NDCG = ((0.3, 0.2, 0.1), (0.1, 0.2, 0.3), (0.2, 0.9, 0.4), (0.1, 0.1, 0.1))  # in the order of the loops
SECONDS = (1.0, 2.0, 4.0, 8.0)  # an epoch


@pytest.fixture
def space(tmp_path: Path) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE_FILE, encoding="utf-8")
    return load_space(str(path))


@pytest.fixture
def table(space: Space) -> Table:
    rows = zip(grid(space), NDCG, SECONDS, strict=True)
    return Table([Curve(values, ndcg, (seconds,) * 3) for values, ndcg, seconds in rows])


def test_the_grid_pays_for_every_epoch_before_the_one_that_arrives(space, table):
    points = list(replay(searched(space, Method("grid", "none"), 1), table, at_once=1))
    assert len(points) == 12
    arrived = next(point for point in points if point.value >= 0.9)
    assert arrived == Point(epochs=8, seconds=3 * 1 + 3 * 2 + 2 * 4, trials=3, value=0.9)


def test_epochs_under_way_are_paid_for_in_part(space, table):
    points = list(replay(searched(space, Method("grid", "none"), 1), table, at_once=2))
    # Trials 1 and 2 begin at 0 with epochs of 1 and 2 s. At 2 s both end one, trial 1 first.
    assert [(point.epochs, point.seconds) for point in points[:4]] == [(1, 2.0), (2, 4.0), (3, 4.0), (4, 6.0)]
    # Trial 3 follows at 3 s, with epochs of 4 s; trial 4 at 6 s, with epochs of 8 s, of which 5 s have gone at 11 s.
    arrived = next(point for point in points if point.value >= 0.9)
    assert arrived == Point(epochs=8, seconds=3 * 1 + 3 * 2 + 2 * 4 + 5, trials=4, value=0.9)
    assert points[-1].seconds == 3 * sum(SECONDS)


def test_the_scheduler_stops_trials_at_its_rungs(space, table):
    log = MemoryLog()
    list(replay(searched(space, Method("grid", "asha"), 1), table, 1, log))
    # Rungs 1 and 2, the upper half goes on. Epoch 1: 0.3 the first; 0.1 < 0.3; 0.2 >= median of 0.3, 0.1; 0.1 < 0.2.
    assert [len(trial.epochs) for trial in log.study.trials.values()] == [3, 1, 3, 1]


def test_a_shuffled_grid_visits_every_combination_once(space, table):
    orders = set()
    for seed in range(8):
        log = MemoryLog()
        list(replay(searched(space, Method("grid", "none", shuffled=True), seed), table, 1, log))
        orders.add(tuple(str(dict(sorted(trial.values.items()))) for trial in log.study.trials.values()))
    assert all(len(set(order)) == 4 for order in orders)
    assert len(orders) > 1


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sampler_begins_at_a_combination_that_its_seed_draws(space, table, sampler):
    firsts = {str(dict(searched(space, Method(sampler, "none"), seed).incumbent)) for seed in range(20)}
    assert len(firsts) == 4


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_quick_proposals_are_the_same_proposals(space, table, sampler):
    early = dataclasses.replace(space, sampler=dataclasses.replace(space.sampler, startup_trials=1))
    method = Method(sampler, "asha")
    plain = list(replay(searched(early, method, 3), table, 2))
    with quick_proposals():
        assert list(replay(searched(early, method, 3), table, 2)) == plain


def test_a_stepped_axis_proposes_the_numbers_of_the_grid(space):
    axis = space.axes["train.learning_rate"]
    assert axis.exact(0.00039999999999999996) == 4e-4


def test_a_search_that_never_arrives_is_infinitely_far():
    near, far = (Search.of([Point(1, 10.0, 1, value)]) for value in (0.9, 0.1))
    assert far.reaching(0.5) is None
    assert quartiles([1.0, 2.0, float("inf"), float("inf")]) == [1.0, 2.0, None]
    assert ratio([near], [far], 0.5)["ratio"] is None


def test_a_search_that_ends_without_arriving_is_followed_by_another():
    searches = [Search.of([Point(1, 10.0, 1, 0.9)]), Search.of([Point(1, 4.0, 1, 0.1), Point(2, 6.0, 1, 0.1)])]
    assert again(searches, 0.5) == 16.0
    assert again(searches[1:], 0.5) == float("inf")


def test_the_ratio_is_that_of_the_medians():
    slow = [Search.of([Point(1, seconds, 1, 0.9)]) for seconds in (10.0, 30.0, 90.0)]
    quick = [Search.of([Point(1, seconds, 1, 0.9)]) for seconds in (5.0, 6.0, 7.0)]
    assert ratio(slow, quick, 0.5)["ratio"] == 5.0


def test_the_best_value_so_far_knows_nothing_of_later_reports():
    search = Search.of([Point(1, 1.0, 1, 0.2), Point(2, 2.0, 1, 0.1), Point(3, 3.0, 1, 0.4)])
    assert [search.best_by(seconds) for seconds in (0.5, 1.0, 2.5, 3.0)] == [0.0, 0.2, 0.2, 0.4]


def test_the_kept_table_has_every_combination_to_its_last_epoch():
    space = load_space(str(CHECKOUT / "benchmarks/parts/search_efficiency.yaml"))
    table = read_table(CHECKOUT / "benchmarks/results/2026-11-25_search_efficiency/curves.jsonl", space)
    assert len(table.curves) == 96
    assert all(len(curve.ndcg) == len(curve.seconds) == 12 for curve in table.curves)


def test_a_table_that_lacks_combinations_is_refused(space, tmp_path):
    with pytest.raises(DataError, match="4 combinations are not tabulated"):
        read_table(tmp_path / "curves.jsonl", space)
