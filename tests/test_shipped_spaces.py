"""The four spaces of the paper's data sets: they load, and their first trial is the authors' setting."""

from itertools import pairwise

import pytest

from odmt.tuning.space import load_space

# epochs, tau, alpha as a ramp, start of the ID table: ODMT.md section 4, the first of several values.
AUTHORS = {
    "arts": (31, 0.3, 20.0, "text+image"),
    "office": (30, 0.4, 40.0, "text+image"),
    "hm": (30, 0.5, 60.0, "text+image"),
    "stream": (40, 0.5, 50.0, "text"),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_the_first_trial_is_the_authors_setting(name):
    space = load_space(name)
    config = space.incumbent_config()
    found = (config.train.max_epochs, config.distill.temperature, config.distill.rampup_epochs, config.model.id_init)
    assert found == AUTHORS[name]
    assert config.data.dataset == name
    assert (config.model.embedding_dim, config.fusion.num_layers, config.fusion.num_heads) == (768, 2, 2)
    assert (config.train.learning_rate, config.train.weight_decay, config.train.batch_size) == (1e-4, 0.1, 128)
    assert (config.train.accumulate_batches, config.distill.weight, config.train.grad_clip) == (2, 1.0, 5.0)
    assert (config.fusion.dropout, config.sequence.dropout, config.fusion.id_masking) == (0.1, 0.1, True)


def test_stream_reads_chinese_titles():
    assert load_space("stream").incumbent_config().features.text.model == "hfl/chinese-roberta-wwm-ext"
    assert load_space("arts").incumbent_config().features.text.model == "bert-base-uncased"


@pytest.mark.parametrize("name", AUTHORS)
def test_a_trial_of_the_paper_takes_one_gpu(name):
    assert load_space(name).resources.gpus_per_trial == 1


@pytest.mark.parametrize("name", AUTHORS)
def test_items_without_a_picture_are_dropped_as_the_paper_has_none(name):
    assert load_space(name).prepare.missing_images == "drop"


def test_of_h_and_m_as_many_users_are_drawn_as_the_paper_has():
    assert {name: load_space(name).prepare.max_users for name in AUTHORS} == {
        "arts": None, "office": None, "hm": 50_000, "stream": None
    }  # fmt: skip


@pytest.mark.parametrize("name", AUTHORS)
def test_every_axis_has_a_reason_in_the_file(name):
    lines = load_space(name).path.read_text().splitlines()
    block = lines[lines.index("axes:") + 1 : lines.index("", lines.index("axes:"))]
    axes = [(above, line) for above, line in pairwise(["", *block]) if not line.strip().startswith("#")]
    assert len(axes) == len(load_space(name).axes)
    assert [line for above, line in axes if not above.strip().startswith("#")] == []
