"""Equal to the authors' code: ids, splits, histories, training windows and popularity of all recorded data sets."""

import json
from itertools import pairwise

import numpy as np
import pytest
from golden_files import GOLDEN

from odmt.data.interactions import Interactions
from odmt.data.split import (
    development_split,
    item_probabilities,
    last_item_targets,
    left_padded,
    split_interactions,
    training_windows,
)

NAMES = sorted(path.stem for path in GOLDEN.glob("data_*.json"))


def read_plainly(files, dataset):
    separator = "," if dataset == "ks" else "\t"
    item_ids = [line.split(separator)[0] for line in files["text"].splitlines()]
    row = {item: index for index, item in enumerate(item_ids)}
    users, offsets, items = [], [0], []
    for line in files["behaviors"].splitlines():
        user, sequence = line.split("\t")
        users.append(user)
        items += [row[item] for item in sequence.split()]
        offsets.append(len(items))
    return item_ids, Interactions(users, np.array(offsets), np.array(items, dtype=np.int32))


@pytest.fixture(params=NAMES)
def case(request):
    record = json.loads((GOLDEN / f"{request.param}.json").read_text())
    item_ids, interactions = read_plainly(record["files"], request.param.removeprefix("data_"))
    settings = record["settings"]
    full = split_interactions(interactions, settings["max_seq_len"], settings["min_seq_len"])
    return record["expected"], item_ids, full, development_split(full)


def rows(offsets, items):
    return [items[start:end].tolist() for start, end in pairwise(offsets)]


def without_padding(windows):
    return [row[row != 0].tolist() for row in windows]


def test_compact_ids_equal_the_authors(case):
    expected, item_ids, full, _ = case
    assert [None, *(item_ids[row] for row in full.item_rows)] == expected["item_names_by_id"]


def test_training_sequences_equal_the_authors(case):
    expected, _, _, development = case
    assert without_padding(training_windows(development)) == expected["users_train"]


def test_validation_sequences_and_histories_equal_the_authors(case):
    expected, _, _, development = case
    targets = last_item_targets(development.offsets, development.items)
    inputs = without_padding(left_padded(targets.offsets, targets.history, development.max_seq_len))
    found = [[*row, int(target)] for row, target in zip(inputs, targets.target, strict=True)]
    assert found == expected["users_valid"]
    assert rows(targets.offsets, targets.history) == expected["history_for_valid"]


def test_test_sequences_and_histories_equal_the_authors(case):
    expected, _, full, _ = case
    targets = last_item_targets(full.offsets, full.items)
    inputs = without_padding(left_padded(targets.offsets, targets.history, full.max_seq_len))
    found = [[*row, int(target)] for row, target in zip(inputs, targets.target, strict=True)]
    assert found == expected["users_test"]
    assert rows(targets.offsets, targets.history) == expected["history_for_test"]


def test_popularity_equals_the_authors(case):
    expected, _, _, development = case
    for power, probabilities in expected["pop_prob_list"].items():
        np.testing.assert_allclose(item_probabilities(development, float(power)), probabilities, rtol=1e-12)


def test_training_windows_equal_the_authors(case):
    expected, _, _, development = case
    windows = training_windows(development)
    assert windows.tolist() == [example["sample_items_id"] for example in expected["modal_items"]]
    masks = (windows[:, :-1] != 0).astype(int).tolist()
    assert masks == [[int(value) for value in example["log_mask"]] for example in expected["modal_items"]]
