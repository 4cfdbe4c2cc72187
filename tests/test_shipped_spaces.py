"""The four spaces of the paper's data sets: they load, and their first trial is the authors' setting."""

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
