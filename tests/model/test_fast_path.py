"""The fast path (features in groups, packed batches, distinct items, chunked loss) against the plain reference."""

from functools import partial
from typing import NamedTuple

import numpy as np
import plain_reference as plain
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from odmt.data.split import DevelopmentSplit, Targets
from odmt.evaluation.evaluator import Evaluator
from odmt.features.ragged import RaggedFeatures
from odmt.model.baselines import make_item_encoder
from odmt.model.items import ItemShape
from odmt.model.losses import Objective, candidate_loss
from odmt.model.recommender import SequentialRecommender
from odmt.model.sequence import make_backbone
from odmt.training.batches import TrainingBatches
from odmt.training.features import ItemFeatures

CPU = torch.device("cpu")
WIDTH, TEXT_WIDTH, IMAGE_WIDTH, ID_WIDTH = 8, 5, 6, 7
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
SEEDS = st.integers(0, 2**32 - 1)


class Catalogue(NamedTuple):
    """Features of some items, as our stores hold them and as the plain reference reads them."""

    features: ItemFeatures
    plain: plain.Features


@st.composite
def token_counts(draw, num_items):
    """Text and image tokens of each item: neither need be there, but one of the two."""
    count = st.tuples(st.integers(0, 4), st.integers(0, 3)).filter(any)
    return draw(st.lists(count, min_size=num_items, max_size=num_items))


def catalogue(counts, items_per_group, rng):
    """Random features; compact id i + 1 stands in catalogue row ``len(counts) - i``, and row 0 takes no part."""
    rows = np.arange(len(counts), 0, -1)
    stores, padded = [], []
    for lengths, width in zip(zip(*counts, strict=True), (TEXT_WIDTH, IMAGE_WIDTH), strict=True):
        of_item = [rng.standard_normal((length, width)).astype(np.float16) for length in lengths]
        other = rng.standard_normal((2, width)).astype(np.float16)
        by_row = [other, *reversed(of_item)]
        stores.append(RaggedFeatures.of(np.concatenate(by_row), np.cumsum([0, *map(len, by_row)])))
        tokens = torch.zeros(len(counts) + 1, max(1, *lengths), width, dtype=torch.float64)
        mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        for item, own in enumerate(of_item, start=1):
            tokens[item, : len(own)] = torch.from_numpy(own).double()
            mask[item, : len(own)] = True
        padded += [tokens, mask]
    features = ItemFeatures(rows, *stores, CPU, items_per_group=items_per_group, width=WIDTH)
    return Catalogue(features, plain.Features(*padded))


class Shape(NamedTuple):
    """Numbers that the model's parameters depend on."""

    fusion_layers: int
    fusion_heads: int
    sequence_layers: int
    sequence_heads: int
    id_masking: bool
    max_seq_len: int

    @property
    def settings(self):
        return plain.Settings(self.fusion_heads, self.sequence_heads, self.id_masking)


shapes = st.builds(
    Shape,
    fusion_layers=st.integers(1, 2),
    fusion_heads=st.sampled_from([1, 2, 4]),
    sequence_layers=st.integers(1, 2),
    sequence_heads=st.sampled_from([1, 2, 4]),
    id_masking=st.booleans(),
    max_seq_len=st.integers(1, 4),
)
objectives = st.builds(
    Objective,
    kd_weight=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.floats(0.3, 3.0),
    detach_teacher=st.booleans(),
    kl=st.booleans(),
)


def make_model(shape, num_items, rng, *, dropout=0.0, recompute_items=False):
    """A model of which no parameter is at a value that hides a mistake, as zeros and ones do."""
    items = make_item_encoder(
        "imt",
        ItemShape(
            num_items, TEXT_WIDTH, IMAGE_WIDTH, ID_WIDTH, WIDTH, shape.fusion_layers, shape.fusion_heads, dropout
        ),
        id_masking=shape.id_masking,
    )
    backbones = {
        branch: make_backbone(
            "sasrec",
            width=WIDTH,
            max_seq_len=shape.max_seq_len,
            num_layers=shape.sequence_layers,
            num_heads=shape.sequence_heads,
            kernel_size=3,
            dropout=dropout,
        )
        for branch in items.branches
    }
    model = SequentialRecommender(items, backbones, recompute_items=recompute_items)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            middle = 1.0 if name.endswith("layer_norm.weight") else 0.0
            parameter.copy_(torch.from_numpy(middle + 0.3 * rng.standard_normal(parameter.shape)))
    return model


class Data(NamedTuple):
    """Training items of some users, and the batch of all of them."""

    batches: TrainingBatches
    slots: torch.Tensor
    share: torch.Tensor

    @property
    def batch(self):
        return self.batches.batch([self.slots.numpy()])


def data_of(lengths, features, max_seq_len, rng):
    """Random training items; each user has one more item, that of validation, which no training may see."""
    num_items, slots = features.num_items, max_seq_len + 1
    training = [rng.integers(1, num_items + 1, length) for length in lengths]
    seen = [np.append(items, rng.integers(1, num_items + 1)) for items in training]
    split = DevelopmentSplit(
        np.arange(num_items), np.cumsum([0, *map(len, seen)]), np.concatenate(seen).astype(np.int32), max_seq_len
    )
    rows = [[0] * (slots - len(items)) + items.tolist()[-slots:] for items in training]
    count = np.bincount(np.concatenate(training), minlength=num_items + 1)
    share = torch.from_numpy(np.concatenate([[1.0], count[1:] / count.sum()]))
    batches = TrainingBatches(split, features, batch_size=len(lengths), seed=0)
    assert batches.windows_US.tolist() == rows
    return Data(batches, torch.tensor(rows), share)


def with_doubles(batch):
    groups = [group._replace(text=group.text.double(), image=group.image.double()) for group in batch.groups]
    return batch._replace(groups=tuple(groups))


def expected_terms(model, data, features, shape, objective, share):
    """Losses and gradients of the plain reference, in float64."""
    leaves = {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}
    found = plain.training_loss(leaves, data.slots, features, share, shape.settings, *objective)
    found.loss.backward()
    return found, {name: leaf.grad for name, leaf in leaves.items()}


def assert_equal_terms(terms, gradients, expected, expected_gradients, **tolerance):
    for name in ("loss", "ce", "kd"):
        ours, theirs = (torch.as_tensor(getattr(found, name)).detach() for found in (terms, expected))
        torch.testing.assert_close(
            ours, theirs, check_dtype=False, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            gradients[name], gradient, check_dtype=False, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


def gradients_of(model, terms):
    model.zero_grad()
    terms.loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@st.composite
def trainings(draw):
    """A model, a catalogue, users and an objective of any shape in which some position has a next item."""
    shape, objective, rng = draw(shapes), draw(objectives), np.random.default_rng(draw(SEEDS))
    num_items = draw(st.integers(1, 6))
    found = catalogue(draw(token_counts(num_items)), draw(st.sampled_from([1, 2, 3, None])), rng)
    lengths = draw(st.lists(st.integers(0, shape.max_seq_len + 2), min_size=1, max_size=4).filter(lambda x: max(x) > 1))
    data = data_of(lengths, found.features, shape.max_seq_len, rng)
    return make_model(shape, num_items, rng), found, data, shape, objective


def check_in_float64(training):
    """Popularity is float32 in a batch; the reference gets these very numbers."""
    model, found, data, shape, objective = training
    share = torch.from_numpy(np.exp(data.batches.log_popularity.astype(np.float64)))
    model.double()
    expected, expected_gradients = expected_terms(model, data, found.plain, shape, objective, share)
    terms = model(with_doubles(data.batch), objective)
    assert {term.dtype for term in terms} == {torch.float64}
    assert_equal_terms(terms, gradients_of(model, terms), expected, expected_gradients, **FLOAT64)


@settings(max_examples=60, deadline=None)
@given(trainings())
def test_loss_and_gradients_equal_the_plain_reference_in_float64(training):
    check_in_float64(training)


@settings(max_examples=30, deadline=None, derandomize=True)  # a ReLU input within float32 rounding of 0 would differ
@given(trainings())
def test_loss_and_gradients_equal_the_plain_reference_in_float32(training):
    model, found, data, shape, objective = training
    expected, expected_gradients = expected_terms(model, data, found.plain, shape, objective, data.share)
    terms = model(data.batch, objective)
    assert {term.dtype for term in terms} == {torch.float32}
    assert_equal_terms(terms, gradients_of(model, terms), expected, expected_gradients, **FLOAT32)


CORNERS = {
    "a user without training items": ([0, 3], [(2, 1), (1, 2), (3, 1)], 3),
    "a user with one training item": ([1, 3], [(2, 1), (1, 2), (3, 1)], 3),
    "one input position": ([2, 2, 1], [(2, 1), (1, 2), (3, 1)], 1),
    "one item repeated": ([4, 3], [(2, 2)], 3),
    "no text at all": ([4, 3], [(0, 1), (0, 2), (0, 3)], 3),
    "no images at all": ([4, 3], [(1, 0), (2, 0), (3, 0)], 3),
    "full windows": ([4, 4, 4], [(2, 2), (2, 2)], 3),
}


@pytest.mark.parametrize("id_masking", [True, False])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners_equal_the_plain_reference(corner, id_masking):
    lengths, counts, max_seq_len = CORNERS[corner]
    rng = np.random.default_rng(1)
    shape = Shape(2, 2, 2, 2, id_masking, max_seq_len)
    found = catalogue(counts, 2, rng)
    data = data_of(lengths, found.features, max_seq_len, rng)
    check_in_float64((make_model(shape, len(counts), rng), found, data, shape, Objective(0.7, 0.5)))


def loss_in_chunks(model, batch, objective, chunk_elements):
    items = model.encode_items(batch.item_ids, batch.groups)
    states = model.encode_sequences([view[batch.inputs] for view in items], batch.layout)
    return candidate_loss(
        states, items, batch.candidates, objective, num_rows=batch.num_rows, chunk_elements=chunk_elements
    )


@settings(max_examples=25, deadline=None)
@given(trainings(), st.integers(1, 40))
def test_the_size_of_chunks_changes_neither_loss_nor_gradients(training, chunk_elements):
    model, _, data, _, objective = training
    batch = with_doubles(data.batch)
    model.double()
    whole = model(batch, objective)
    expected = gradients_of(model, whole)
    chunked = loss_in_chunks(model, batch, objective, chunk_elements)
    assert_equal_terms(chunked, gradients_of(model, chunked), whole, expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(trainings())
def test_a_batch_encodes_every_item_once_and_no_padding(training):
    _, _, data, _, _ = training
    ids = data.batch.item_ids.tolist()
    assert sorted(ids) == sorted(set(data.slots.flatten().tolist()) - {0})


@pytest.mark.parametrize("items_per_group", [1, 3, None])
@pytest.mark.parametrize("id_masking", [True, False])
def test_recomputing_items_gives_bitwise_the_same_loss_and_gradients_with_dropout(id_masking, items_per_group):
    found = []
    for recompute_items in (False, True):
        rng = np.random.default_rng(0)
        shape = Shape(2, 2, 1, 2, id_masking, 4)
        features = catalogue([(2, 1), (0, 2), (4, 3), (1, 0), (3, 3), (2, 2)], items_per_group, rng).features
        data = data_of([5, 3, 4], features, 4, rng)
        model = make_model(shape, 6, rng, dropout=0.3, recompute_items=recompute_items)
        torch.manual_seed(3)
        terms = model(data.batch, Objective(0.5, 0.7))
        found.append((terms, gradients_of(model, terms)))
    (kept, kept_gradients), (again, again_gradients) = found
    assert_equal_terms(again, again_gradients, kept, kept_gradients, rtol=0, atol=0)
    other = model(data.batch, Objective(0.5, 0.7))
    assert other.loss.item() != again.loss.item()  # dropout was on


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_evaluators_ranks_equal_the_plain_reference(data):
    draw = data.draw
    shape, rng, num_items = draw(shapes), np.random.default_rng(draw(SEEDS)), draw(st.integers(2, 10))
    found = catalogue(draw(token_counts(num_items)), draw(st.sampled_from([1, 2, None])), rng)
    model = make_model(shape, num_items, rng)
    items = st.integers(1, num_items)
    histories = draw(st.lists(st.lists(items, min_size=1, max_size=shape.max_seq_len + 2), min_size=1, max_size=5))
    wanted = [draw(items) for _ in histories]
    parameters = {name: value.detach().double() for name, value in model.named_parameters()}
    heads = plain.scores(parameters, histories, found.plain, shape.max_seq_len, shape.settings)
    for scores in heads.values():
        rows = zip(scores, wanted, strict=True)
        gaps = torch.cat(
            [(row - row[target - 1]).abs()[torch.arange(1, num_items + 1) != target] for row, target in rows]
        )
        assume(gaps.min() > 1e-4)  # float32 cannot tell nearer ones apart
    targets = Targets(np.cumsum([0, *map(len, histories)]), np.concatenate(histories), np.array(wanted))
    chunks = partial(found.features.chunks, draw(st.integers(1, 12)))
    ranks = Evaluator(targets, chunks, shape.max_seq_len, draw(st.integers(1, 6)), False).measure(model).ranks
    assert {head: own.tolist() for head, own in ranks.items()} == {
        head: plain.ranks(scores, wanted, histories) for head, scores in heads.items()
    }
