import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_home import CONFIG, DATASET, ITEMS, trained_trial, write_small_dataset

from odmt.errors import CheckpointError, DataError
from odmt.evaluation.metrics import ranking_metrics
from odmt.experiment import sealed_test
from odmt.experiment.arrays import load_full_split, load_split
from odmt.experiment.sealed_test import (
    LOG_NAME,
    count_reads,
    read_log,
    read_ranks,
    read_sealed_test,
    sealed_floors,
    sealed_targets,
)
from odmt.home import Home

WHO = {"study": "small", "study_id": "s1", "trial_id": "t-abc"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set, its sequences, and the name of a trained trial's checkpoint; every test gets a copy."""
    root = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        sequences = write_small_dataset(Home(root), patch)
        yield root, sequences, trained_trial(Home(root)).best_checkpoint.relative_to(root)


@pytest.fixture
def home(prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def sequences(prepared):
    return prepared[1]


@pytest.fixture
def checkpoint(prepared, home):
    return home.root / prepared[2]


@pytest.fixture
def log(home):
    return home.dataset(DATASET) / LOG_NAME


def test_the_target_is_the_last_item_and_no_trial_sees_it(home, sequences):
    targets = sealed_targets(load_full_split(home, CONFIG.data))
    assert targets.target.tolist() == [sequence[-1] + 1 for sequence in sequences]
    split = load_split(home, CONFIG.data)
    seen = [split.items[start:end].tolist() for start, end in zip(split.offsets, split.offsets[1:], strict=False)]
    assert seen == [[item + 1 for item in sequence[:-1]] for sequence in sequences]


def test_floors_count_training_items_only(home, sequences):
    full = load_full_split(home, CONFIG.data)
    floors = sealed_floors(full, sealed_targets(full))
    # Every item is followed by its successor on the ring, in training too: the transition count is always right.
    assert floors["transitions"]["hr_at_5"] == 1.0
    assert floors["transitions"]["ndcg_at_5"] == 1.0
    assert floors["popularity"]["hr_at_20"] == 1.0
    assert floors["popularity"]["ndcg_at_5"] < 1.0


def test_four_heads_and_both_floors_are_measured_and_the_read_is_written_down(home, checkpoint, log):
    found = read_sealed_test(home, CONFIG, checkpoint, **WHO)
    for head in ("", "id/", "text/", "image/"):
        assert {f"{head}{name}_at_{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)} <= found.metrics.keys()
    assert found.metrics["hr_at_20"] == 1.0  # 12 items: every target is among the first 20
    assert set(found.floors) == {"popularity", "transitions"}
    assert (found.reads, found.reused) == (1, False)
    read, result = read_log(log)
    assert (read["event"], result["event"]) == ("read", "result")
    assert {"study", "study_id", "trial", "checkpoint", "data_digest", "when", "who"} <= read.keys()
    assert (read["study"], read["trial"], read["checkpoint"]) == ("small", "t-abc", checkpoint.name)


def test_the_same_trial_is_not_read_again(home, checkpoint, monkeypatch):
    first = read_sealed_test(home, CONFIG, checkpoint, **WHO)
    monkeypatch.setattr(sealed_test, "evaluate_model", lambda *_: pytest.fail("read again"))
    assert read_sealed_test(home, CONFIG, checkpoint, **WHO) == first._replace(reused=True)


def test_every_users_rank_is_kept_and_gives_the_logged_metrics(home, checkpoint, log):
    found = read_sealed_test(home, CONFIG, checkpoint, **WHO)
    _, result = read_log(log)
    ranks = read_ranks(home, DATASET, result)
    assert set(ranks) == {"fused", "id", "text", "image"}
    assert len(ranks["fused"]) == load_split(home, CONFIG.data).num_users
    for name, value in ranking_metrics(ranks["fused"]).items():
        assert found.metrics[name] == value


def test_ranks_of_a_read_that_kept_none_are_a_clear_error(home, checkpoint, log):
    read_sealed_test(home, CONFIG, checkpoint, **WHO)
    _, result = read_log(log)
    with pytest.raises(DataError, match="is gone, or this read of the sealed test is older than the keeping of ranks"):
        read_ranks(home, DATASET, result | {"trial": "t-old"})


def test_another_trial_is_another_read(home, checkpoint):
    read_sealed_test(home, CONFIG, checkpoint, **WHO)
    assert read_sealed_test(home, CONFIG, checkpoint, **WHO | {"trial_id": "t-other"}).reads == 2


def test_a_read_stands_in_the_log_before_its_numbers_exist(home, checkpoint, log, monkeypatch):
    def fail(*_):
        assert [entry["event"] for entry in read_log(log)] == ["read"]
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed_test, "evaluate_model", fail)
    with pytest.raises(KeyboardInterrupt):
        read_sealed_test(home, CONFIG, checkpoint, **WHO)
    assert count_reads(log) == 1


def test_a_missing_checkpoint_does_not_count_as_a_read(home, checkpoint, log, tmp_path):
    with pytest.raises(CheckpointError, match=r"weights.safetensors: cannot be read"):
        read_sealed_test(home, CONFIG, tmp_path / "gone", **WHO)
    assert count_reads(log) == 0


def test_a_damaged_line_of_the_log_is_named(log):
    log.write_text(json.dumps({"event": "read"}) + "\n[]\n")
    with pytest.raises(DataError, match=r"sealed_test_reads.jsonl:2: not an entry"):
        count_reads(log)


@pytest.mark.parametrize("torn", [b'{"event": "resu', b'{"event": "read", "who": "J\xc3', b'["event"]'])
def test_a_torn_last_line_is_cut_off_by_the_next_read(home, checkpoint, log, torn):
    first = read_sealed_test(home, CONFIG, checkpoint, **WHO)
    log.write_bytes(log.read_bytes() + torn)
    assert count_reads(log) == 1
    assert read_sealed_test(home, CONFIG, checkpoint, **WHO) == first._replace(reused=True)
    assert read_sealed_test(home, CONFIG, checkpoint, **WHO | {"trial_id": "t-other"}).reads == 2
    assert [entry["event"] for entry in read_log(log)] == ["read", "result"] * 2


def test_a_last_line_that_lacks_its_newline_only_still_counts(home, checkpoint, log):
    read_sealed_test(home, CONFIG, checkpoint, **WHO)
    log.write_bytes(log.read_bytes().removesuffix(b"\n"))
    assert read_sealed_test(home, CONFIG, checkpoint, **WHO | {"trial_id": "t-other"}).reads == 2
    assert [entry["event"] for entry in read_log(log)] == ["read", "result"] * 2


def test_two_promotes_at_once_read_once(home, checkpoint, log, monkeypatch):
    evaluate = sealed_test.evaluate_model

    def slow(*arguments):
        time.sleep(0.3)
        return evaluate(*arguments)

    monkeypatch.setattr(sealed_test, "evaluate_model", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: read_sealed_test(home, CONFIG, checkpoint, **WHO), range(2)))
    assert sorted(answer.reused for answer in found) == [False, True]
    assert found[0].metrics == found[1].metrics
    assert count_reads(log) == 1


def test_the_split_holds_the_whole_ring(home):
    assert load_split(home, CONFIG.data).num_items == ITEMS
