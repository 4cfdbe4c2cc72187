"""The names that a space can search for are those that a run reports."""

from small_arrays import small_arrays, small_config

from odmt.experiment.run import SELECTION, training_run
from odmt.tuning.objectives import METRICS, read_objectives
from odmt.tuning.trials import METRIC


def test_every_metric_that_can_be_an_objective_is_reported_by_a_run():
    config = small_config(train={"max_epochs": 1})
    (result,) = training_run(config, small_arrays(max_seq_len=config.data.max_seq_len))
    assert set(METRICS) <= set(result.metrics)


def test_a_search_maximises_what_a_run_chooses_its_epochs_by():
    assert METRIC == SELECTION
    assert next(iter(read_objectives({}, []).items())) == (METRIC, "max")
