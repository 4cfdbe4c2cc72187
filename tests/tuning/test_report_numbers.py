"""What the report computes: ranking, budget, rung trust, Pareto fronts, importance."""

import math

import pytest
from report_study import AXES, NAME, MadeStudy, gru, sasrec

from odmt.tuning.report.frames import epochs_frame, trials_frame
from odmt.tuning.report.importance import LEAST, importances, top_share
from odmt.tuning.report.pareto import front, non_dominated
from odmt.tuning.report.rung_trust import rung_trust, study_rungs
from odmt.tuning.report.spending import spending
from odmt.tuning.state import METRIC

PARAMETERS = "cost/parameters"


def test_the_leaderboard_ranks_by_the_best_epoch_and_leaves_out_what_did_not_end(home):
    study = MadeStudy()
    study.completed(sasrec(), [0.1, 0.5, 0.2, 0.3])
    study.stopped(gru(), [0.6])
    study.trial(gru(2e-3), [0.9, math.nan], verdict="fail", reason="no number")
    study.trial(gru(3e-3), [0.8])
    study.completed(gru(4e-3), [0.5, 0.5, 0.5, 0.5])
    facts = study.facts(home)
    assert [trial.trial_id for trial in facts.ranked()] == ["t0001", "t0000", "t0004"]
    assert [facts.outcome(trial) for trial in facts.trials] == [
        "completed",
        "stopped",
        "failed",
        "interrupted",
        "completed",
    ]
    assert facts.standing == "interrupted"


def test_tables_hold_every_trial_and_every_epoch(home):
    study = MadeStudy()
    study.completed(sasrec(dropout=0.25), [0.1, 0.4, 0.3, 0.2], sentinel=True)
    study.stopped(gru(), [0.2])
    facts = study.facts(home)
    trials, epochs = trials_frame(facts), epochs_frame(facts)
    assert list(trials["outcome"]) == ["completed", "stopped"]
    assert list(trials[f"best/{METRIC}"]) == [0.4, 0.2]
    assert list(trials["last_value"]) == [0.2, 0.2]
    assert list(trials["epoch_seconds"]) == [8.0, 2.0]
    assert list(trials["sentinel"]) == [True, False]
    assert list(trials["value/sequence.dropout"].isna()) == [False, True]
    assert list(epochs["epoch"]) == [1, 2, 3, 4, 1]
    assert list(epochs["verdict"]) == ["continue", "continue", "continue", "complete", "stop"]


def test_epochs_saved_are_those_that_stopped_trials_did_not_run(home):
    study = MadeStudy(max_epochs=4, trials=9)
    study.completed(sasrec(), [0.1] * 4)
    study.stopped(gru(), [0.1])
    study.stopped(gru(2e-3), [0.1, 0.1])
    study.trial(gru(3e-3), [0.1, math.nan, 0.1][:2], verdict="fail", reason="no number")
    spent = spending(study.facts(home))
    assert (spent.trials_planned, spent.trials_ended) == (9, 4)
    assert (spent.epochs_run, spent.epochs_of_failed) == (9, 2)
    assert (spent.epochs_to_the_end, spent.epochs_saved) == (12, 5)
    assert spent.saved_share == pytest.approx(5 / 12)
    assert spent.hours_saved == pytest.approx(5 * 2 / 3600)


def test_the_plan_beside_the_log_is_not_the_budget(home):
    study = MadeStudy(seconds=7200.0)
    study.completed(sasrec(), [0.1] * 4)
    spent = spending(study.facts(home))
    assert (spent.wall_hours_allowed, spent.wall_hours_planned, spent.epochs_planned) == (2.0, None, None)
    (home.study(NAME) / "plan.json").write_text('{"epochs": 20.0, "hours": 0.5, "device_hours": 1.0}')
    spent = spending(study.facts(home))
    assert (spent.wall_hours_planned, spent.device_hours_planned, spent.epochs_planned) == (0.5, 1.0, 20.0)
    assert spent.wall_hours_allowed == 2.0


def test_rungs_come_from_the_header(home):
    assert study_rungs(MadeStudy(max_epochs=9).facts(home)) == [1, 2, 4, 8]


def test_rung_trust_is_the_rank_correlation_of_sentinels_by_hand(home):
    study = MadeStudy(max_epochs=2)
    for first, last in [(0.1, 0.2), (0.2, 0.5), (0.3, 0.4), (0.4, 0.9)]:
        study.completed(sasrec(), [first, last], sentinel=True)
    study.completed(gru(), [0.9, 0.1])
    (sentinels, everyone) = rung_trust(study.facts(home))
    # Ranks 1 2 3 4 against 1 3 2 4: Spearman 1 - 6 * 2 / (4 * 15), Kendall (5 - 1) / 6.
    assert (sentinels.rung, sentinels.group, sentinels.n) == (1, "sentinels", 4)
    assert sentinels.spearman == pytest.approx(0.8)
    assert sentinels.kendall == pytest.approx(4 / 6)
    assert (everyone.group, everyone.n) == ("completed", 5)
    assert "biased by selection" in everyone.note


def test_two_sentinels_are_too_few_for_a_correlation(home):
    study = MadeStudy(max_epochs=2)
    study.completed(sasrec(), [0.1, 0.2], sentinel=True)
    study.completed(gru(), [0.2, 0.3], sentinel=True)
    row = rung_trust(study.facts(home))[0]
    assert (row.n, row.spearman, row.kendall, row.note) == (2, None, None, "too few")


def test_a_sentinel_that_failed_says_nothing_about_a_rung(home):
    study = MadeStudy(max_epochs=2)
    for value in (0.1, 0.2):
        study.completed(sasrec(), [value, value], sentinel=True)
    study.trial(gru(), [0.3, math.nan], verdict="fail", sentinel=True, reason="no number")
    assert rung_trust(study.facts(home))[0].n == 2


def test_equal_values_have_no_rank_correlation(home):
    study = MadeStudy(max_epochs=2)
    for value in (0.1, 0.2, 0.3):
        study.completed(sasrec(), [0.5, value], sentinel=True)
    row = rung_trust(study.facts(home))[0]
    assert (row.spearman, row.note) == (None, "not defined: all values are equal")


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1, 3], [2, 2], [3, 1], [3, 3]], [True, True, True, False]),
        ([[1, 1], [1, 1]], [True, True]),
        ([[1, 2], [1, 1]], [False, True]),
    ],
)
def test_a_point_is_dominated_by_one_that_is_nowhere_worse_and_somewhere_better(points, expected):
    assert non_dominated(points) == expected


def test_the_front_respects_the_direction_of_each_objective(home):
    study = MadeStudy(objectives=[(METRIC, "max"), (PARAMETERS, "min")])
    study.completed(sasrec(), [0.1, 0.2, 0.3, 0.5], extra={PARAMETERS: 100})
    study.completed(sasrec(2e-3), [0.1, 0.2, 0.3, 0.4], extra={PARAMETERS: 50})
    study.completed(gru(), [0.1, 0.2, 0.3, 0.4], extra={PARAMETERS: 60})
    facts = study.facts(home)
    assert [trial.trial_id for trial in front(facts)] == ["t0000", "t0001"]
    assert list(trials_frame(facts)["on_pareto_front"]) == [True, True, False]


def learning_rate_decides(num_trials):
    """Trials whose value is the learning rate's logarithm; the rest changes without consequence."""
    study = MadeStudy(trials=num_trials)
    for index in range(num_trials):
        rate = 1e-4 * 100 ** (index / (num_trials - 1))
        values = gru(rate) if index % 2 else sasrec(rate, dropout=0.5 * ((index * 7) % num_trials) / num_trials)
        study.completed(values, [0.1 + 0.01 * index] * 4)
    return study


@pytest.mark.parametrize("evaluator", ["fANOVA", "MDI", "PED-ANOVA"])
def test_every_evaluator_finds_the_setting_that_decides(home, evaluator):
    found = [item for item in importances(learning_rate_decides(40).facts(home)) if item.evaluator == evaluator]
    (whole,) = [item for item in found if item.target == "best" and not item.condition]
    assert whole.problem is None
    assert max(whole.shares, key=whole.shares.get) == "train.learning_rate"
    assert sum(whole.shares.values()) == pytest.approx(1)


def test_a_conditional_axis_is_judged_on_the_trials_that_have_it(home):
    found = importances(learning_rate_decides(40).facts(home))
    (part,) = [item for item in found if (item.evaluator, item.target) == ("fANOVA", "best") and item.condition]
    assert (part.condition, part.n) == ("model.backbone is sasrec", 20)
    assert list(part.shares) == ["sequence.dropout"]
    assert part.shares["sequence.dropout"] < 0.2


def test_the_first_rung_compares_all_trials_equally_long_trained(home):
    study = learning_rate_decides(LEAST)
    study.trial(gru(), [0.05])
    found = importances(study.facts(home))
    assert {item.target: item.n for item in found if item.evaluator == "PED-ANOVA"} == {
        "best": LEAST,
        "epoch 1": LEAST + 1,
    }


def test_too_few_trials_or_equal_values_are_told_instead_of_shares(home):
    few = importances(learning_rate_decides(LEAST - 1).facts(home))
    assert {item.problem for item in few if not item.condition} == {"needs at least 10 trials, there are 9"}
    study = MadeStudy(axes=AXES[:2])
    for index in range(LEAST):
        study.completed(gru(1e-4 * (index + 1)), [0.5] * 4)
    equal = importances(study.facts(home))
    assert {item.problem for item in equal} == {"all trials have the same value"}
    assert not any(item.shares for item in [*few, *equal])


def test_ped_anova_counts_at_least_five_trials_as_the_top():
    assert [top_share(n) for n in (10, 20, 50, 1000)] == [0.5, 0.25, 0.1, 0.1]
