"""The loss over distinct columns against lists of candidates, duplicates and all, row by row."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from odmt.data.split import DevelopmentSplit
from odmt.features.ragged import RaggedFeatures
from odmt.model.losses import Candidates, Objective, candidate_loss
from odmt.training.batches import CandidateRule, TrainingBatches
from odmt.training.features import ItemFeatures

WIDTH = 4
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


class Rows(NamedTuple):
    """What a user would write down by hand.

    Attributes:
        slots: of each user item ids, left padded with 0.
        catalogue: number of items.
        share: of each item's training interactions, by id; padding first.
        drawn: item ids of the negatives; None where they are not drawn.
    """

    slots: list[list[int]]
    catalogue: int
    share: np.ndarray
    drawn: list[int] | None


def training_batches(sequences, num_items, max_seq_len, rule):
    """Training items as given; each user has one more item, that of validation.

    Items have 3, 2, 1, 3, 2, ... tokens, so that a batch, which sorts by length, does not hold them in order of id.
    """
    offsets = np.cumsum([0, *(3 - np.arange(num_items) % 3)])
    store = RaggedFeatures.of(np.ones((offsets[-1], 1), dtype=np.float16), offsets)
    features = ItemFeatures(np.arange(num_items), store, store, torch.device("cpu"))
    seen = [[*items, 1] for items in sequences]
    split = DevelopmentSplit(
        np.arange(num_items), np.cumsum([0, *map(len, seen)]), np.concatenate(seen).astype(np.int32), max_seq_len
    )
    return TrainingBatches(split, features, batch_size=len(sequences), seed=0, rule=rule)


def batch_and_rows(sequences, num_items, max_seq_len, rule):
    """A batch of all users, and the same by hand."""
    batches = training_batches(sequences, num_items, max_seq_len, rule)
    batch = batches.batch([batches.windows_US])
    count = np.bincount(np.concatenate(sequences).astype(int), minlength=num_items + 1).astype(float)
    share = count**rule.popularity_power / (count[1:] ** rule.popularity_power).sum()
    drawn = None
    if rule.kind == "sampled":
        times = batch.candidates.log_count.exp().round().long()
        drawn = batch.item_ids.repeat_interleave(times).tolist()
    slots = [[0] * (max_seq_len + 1 - len(items)) + list(items)[-max_seq_len - 1 :] for items in sequences]
    return batch, Rows(slots, num_items, share, drawn)


def candidates_of(kind, rows, user, position):
    """The candidates of one position, its next item first."""
    own, label = rows.slots[user], rows.slots[user][position + 1]
    if kind == "full":
        others = range(1, rows.catalogue + 1)
        return [label, *(item for item in others if item != label)]
    if kind == "sampled":
        return [label, *(item for item in rows.drawn if item != label)]
    every_slot = [item for slots in rows.slots for item in slots]
    return [label, *(item for item in every_slot if item != 0 and item not in own)]


def slow_loss(kind, rows, states, items_by_id, objective, *, corrected):
    """Mean over rows, list of candidates by list of candidates.

    Args:
        kind: of the candidates.
        rows: by hand.
        states: ``(R, D)`` a branch.
        items_by_id: ``(N + 1, D)`` a branch.
        objective: what is minimised.
        corrected: whether log popularity is subtracted.
    """
    ce, kd = [], []
    places = [(user, at) for user, own in enumerate(rows.slots) for at in range(len(own) - 1) if own[at] != 0]
    for row, (user, position) in enumerate(places):
        ids = candidates_of(kind, rows, user, position)
        logits = [(state[row] @ items[ids].T).unsqueeze(0) for state, items in zip(states, items_by_id, strict=True)]
        if corrected:
            logits = [branch - torch.from_numpy(np.log(rows.share[ids])) for branch in logits]
        ce.append(sum(F.cross_entropy(branch, torch.tensor([0])) for branch in logits))
        if len(logits) == 3:
            of_id, of_text, of_image = (branch / objective.temperature for branch in logits)
            ensemble = (of_id + of_text + of_image) / 3
            pairs = [(of_text, of_id), (of_image, of_id), (of_id, ensemble)]
            kd.append(sum(slow_distillation(*pair, objective) for pair in pairs))
    ce = torch.stack(ce).mean()
    kd = torch.stack(kd).mean() * objective.kd_weight * objective.temperature**2 if kd else ce.new_zeros(())
    return ce + kd, ce, kd


def slow_distillation(student, teacher, objective):
    teacher = teacher.detach() if objective.detach_teacher else teacher
    if objective.kl:
        return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True)
    return F.cross_entropy(student, teacher.softmax(1))


def vectors(branches, num_rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(num_rows, WIDTH, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(branches)
    )


def gradients(loss, *groups):
    return torch.autograd.grad(loss, [tensor for group in groups for tensor in group])


def assert_equals_slow(batch, rows, kind, branches, objective, seed=0, **more):
    states = vectors(branches, len(batch.candidates.label), seed)
    by_id = vectors(branches, rows.catalogue + 1, seed + 1)
    terms = candidate_loss(
        states, [items[batch.item_ids] for items in by_id], batch.candidates, objective, num_rows=batch.num_rows, **more
    )
    if kind == "in-batch":  # a batch holds log popularity in float32; the slow loss gets that very number
        ids, share = batch.item_ids.numpy(), batch.candidates.log_popularity.double().exp().numpy()
        np.testing.assert_allclose(share, rows.share[ids], rtol=1e-6)
        rows.share[ids] = share
    expected = slow_loss(kind, rows, states, by_id, objective, corrected=kind == "in-batch")
    for name, value in zip(("loss", "ce", "kd"), expected, strict=True):
        torch.testing.assert_close(getattr(terms, name).detach(), value.detach(), **FLOAT64)
    for ours, theirs in zip(gradients(terms.loss, states, by_id), gradients(expected[0], states, by_id), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_loss_and_gradients_equal_lists_of_candidates(data):
    draw = data.draw
    kind = draw(st.sampled_from(["in-batch", "full", "sampled"]))
    num_items, max_seq_len = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    sequence = st.lists(st.integers(1, num_items), max_size=max_seq_len + 1)
    sequences = draw(st.lists(sequence, min_size=1, max_size=4).filter(lambda found: max(map(len, found)) > 1))
    rule = CandidateRule(kind, draw(st.sampled_from([0.5, 1.0])), num_negatives=draw(st.integers(1, 12)))
    batch, rows = batch_and_rows(sequences, num_items, max_seq_len, rule)
    objective = Objective(
        draw(st.sampled_from([0.0, 0.6])), draw(st.floats(0.3, 3.0)), draw(st.booleans()), draw(st.booleans())
    )
    chunk = draw(st.sampled_from([None, 1, 10]))
    seed = draw(st.integers(0, 1000))
    assert_equals_slow(batch, rows, kind, draw(st.sampled_from([1, 3])), objective, seed, chunk_elements=chunk)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_popularity_correction_by_hand(power):
    """Item 1 has 3 of 5 interactions, items 2 and 3 one each; states and items are 0, so only popularity speaks.

    User (1, 2) is asked after item 1 for item 2 and has item 3 and, of the other user, nothing else: item 1 is held.
    User (1, 1, 3) is asked twice, for item 1 and for item 3, each against item 2 alone.
    """
    rule = CandidateRule("in-batch", popularity_power=power)
    batch, _ = batch_and_rows([[1, 2], [1, 1, 3]], 3, 2, rule)
    zeros = [torch.zeros(len(batch.candidates.label), WIDTH)], [torch.zeros(len(batch.item_ids), WIDTH)]
    terms = candidate_loss(*zeros, batch.candidates, Objective())
    # -log p is the logit: equal shares (2 and 3) give log 2; item 1 against item 2 gives log(1 + p1 / p2).
    by_hand = (math.log(2) + math.log(1 + 3**power) + math.log(2)) / 3
    assert terms.ce.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_only_candidates_of_the_batch_are_corrected_for_popularity(kind):
    batch, _ = batch_and_rows([[1, 2], [1, 1, 3]], 3, 2, CandidateRule(kind))
    assert not batch.candidates.log_popularity.any()


def hand_made(label, log_count, held=None):
    """Candidates of rows that are one user each."""
    return Candidates(
        user=torch.arange(len(label)),
        label=torch.tensor(label),
        log_popularity=torch.zeros(len(log_count)),
        log_count=torch.tensor(log_count, dtype=torch.float64).log(),
        held=held,
    )


def scores_as_given(scores_RM):
    """States and items whose products are given numbers: the items are unit vectors."""
    scores = torch.tensor(scores_RM, dtype=torch.float64)
    return [scores.requires_grad_()], [torch.eye(scores.shape[1], dtype=torch.float64)]


def cross_entropy_of(scores_RM, candidates):
    return candidate_loss(*scores_as_given(scores_RM), candidates, Objective()).ce.item()


def test_a_negative_drawn_twice_counts_twice():
    found = cross_entropy_of([[1.0, 0.5, 0.0]], hand_made([0], [0, 2, 1]))
    assert found == pytest.approx(math.log(math.e + 2 * math.exp(0.5) + 1) - 1)


@pytest.mark.parametrize("times_drawn", [0, 1, 5])
def test_the_label_counts_once_however_often_it_is_drawn(times_drawn):
    found = cross_entropy_of([[1.0, 0.5, 0.0]], hand_made([0], [times_drawn, 2, 1]))
    assert found == pytest.approx(math.log(math.e + 2 * math.exp(0.5) + 1) - 1)


def test_an_item_of_another_user_that_is_not_drawn_is_no_candidate():
    found = cross_entropy_of([[1.0, 0.5, 9.0]], hand_made([0], [0, 2, 0]))
    assert found == pytest.approx(math.log(math.e + 2 * math.exp(0.5)) - 1)


def test_what_a_user_holds_is_no_candidate_except_the_label():
    held = torch.tensor([[True, False, True], [False, False, False]])
    found = cross_entropy_of([[1.0, 0.5, 9.0], [0.0, 0.0, 0.0]], hand_made([0, 0], [1, 1, 1], held))
    assert found == pytest.approx((math.log(math.e + math.exp(0.5)) - 1 + math.log(3)) / 2)


def test_in_batch_candidates_count_as_often_as_they_stand_in_the_batch():
    batch, _ = batch_and_rows([[1, 2], [3, 3, 4], [3, 4, 3]], 4, 2, CandidateRule())
    times = dict(zip(batch.item_ids.tolist(), batch.candidates.log_count.exp().tolist(), strict=True))
    assert times == {1: 1, 2: 1, 3: pytest.approx(4), 4: pytest.approx(2)}


def test_sampled_draws_are_as_many_as_asked_for_uniform_and_of_the_catalogue():
    rule = CandidateRule("sampled", num_negatives=20_000)
    batch, rows = batch_and_rows([[1, 2], [1, 1, 3]], 5, 2, rule)
    assert len(rows.drawn) == 20_000
    assert (np.bincount(rows.drawn, minlength=6)[1:] / 20_000).tolist() == pytest.approx([0.2] * 5, abs=0.02)
    assert batch.candidates.held is None


def test_another_stream_draws_other_negatives_and_the_same_stream_the_same():
    batches = training_batches([[1, 2], [1, 1, 3]], 50, 2, CandidateRule("sampled", num_negatives=10))
    first, again, other = (batches.batch([batches.windows_US], draw).item_ids.tolist() for draw in ((1,), (1,), (2,)))
    assert first == again
    assert first != other


def test_full_candidates_are_the_whole_catalogue():
    batch, _ = batch_and_rows([[1, 2], [1, 1, 3]], 7, 2, CandidateRule("full"))
    assert sorted(batch.item_ids.tolist()) == [1, 2, 3, 4, 5, 6, 7]
    assert batch.candidates.log_count.tolist() == [0.0] * 7


def small_case(branches=3, seed=0, dtype=torch.float64):
    """Two users, six items; the first user is never scored against what it holds."""
    held = torch.tensor([[True, False, False, True, False, False], [False] * 6])
    candidates = Candidates(
        user=torch.tensor([0, 0, 1, 1, 1]),
        label=torch.tensor([0, 3, 2, 5, 1]),
        log_popularity=torch.tensor([-1.0, -2.0, -1.5, -3.0, -0.5, -2.5]),
        log_count=torch.tensor([1.0, 2.0, 1.0, 0.0, 3.0, 1.0], dtype=torch.float64).log(),
        held=held,
    )
    states, items = vectors(branches, 5, seed), vectors(branches, 6, seed + 1)
    cast = [[tensor.detach().to(dtype).requires_grad_() for tensor in group] for group in (states, items)]
    return *cast, candidates


@pytest.mark.parametrize("kl", [False, True])
def test_distillation_of_equal_branches_is_their_entropy_or_no_divergence(kl):
    states, items, candidates = small_case(branches=1)
    temperature = 0.7
    terms = candidate_loss(states * 3, items * 3, candidates, Objective(0.4, temperature, kl=kl))
    logits = (states[0] @ items[0].T - candidates.log_popularity) / temperature
    counts = candidates.log_count.masked_fill(candidates.held[candidates.user], -math.inf)
    counts = counts.scatter(1, candidates.label.unsqueeze(1), 0.0)
    entropy = 0.0
    for row, times in zip(logits, counts.exp().round().long(), strict=True):
        entropy = entropy + torch.distributions.Categorical(logits=row.repeat_interleave(times)).entropy() / 5
    expected = 0.0 if kl else 0.4 * 3 * temperature**2 * entropy.item()
    assert terms.kd.item() == pytest.approx(expected, abs=1e-12)


def distillation_gradients(objective, seed=0):
    """Gradients of the distillation alone: cross-entropy has the same with and without it."""
    states, items, candidates = small_case(seed=seed)
    without = candidate_loss(states, items, candidates, Objective())
    terms = candidate_loss(states, items, candidates, objective)
    return gradients(terms.loss - without.loss, states, items)


def test_a_detached_teacher_gets_no_gradient():
    """Without teachers' gradients the text branch learns from its own imitation of the ID branch alone."""
    states, items, candidates = small_case()
    states, items = ([tensor.detach() for tensor in group] for group in (states, items))
    temperature = 0.7
    counts = candidates.log_count.masked_fill(candidates.held[candidates.user], -math.inf)
    counts = counts.scatter(1, candidates.label.unsqueeze(1), 0.0)
    softened = [
        ((state @ item.T - candidates.log_popularity) / temperature + counts).softmax(1)
        for state, item in zip(states, items, strict=True)
    ]
    of_id, of_text, _ = softened
    by_hand = temperature * (of_text - of_id) @ items[1] / 5  # tau^2 (student - teacher) / tau, mean of 5 rows
    detached = distillation_gradients(Objective(1.0, temperature, detach_teacher=True))
    torch.testing.assert_close(detached[1], by_hand, **ROUNDING)
    attached = distillation_gradients(Objective(1.0, temperature))
    assert (attached[1] - by_hand).abs().max() > 1e-3
    assert (attached[0] - detached[0]).abs().max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 4.0))
def test_with_a_detached_teacher_divergence_has_the_gradient_of_cross_entropy(seed, temperature):
    soft = distillation_gradients(Objective(0.8, temperature, detach_teacher=True), seed)
    divergence = distillation_gradients(Objective(0.8, temperature, detach_teacher=True, kl=True), seed)
    for left, right in zip(soft, divergence, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


def test_with_an_attached_teacher_divergence_has_another_gradient():
    soft, divergence = (distillation_gradients(Objective(0.8, 0.7, kl=kl)) for kl in (False, True))
    assert max((left - right).abs().max().item() for left, right in zip(soft, divergence, strict=True)) > 1e-3


def test_no_weight_is_no_distillation():
    terms = candidate_loss(*small_case(), Objective(0.0))
    assert terms.kd.item() == 0.0
    assert terms.loss.item() == terms.ce.item()


def test_only_the_sum_carries_gradients():
    terms = candidate_loss(*small_case(), Objective(1.0))
    assert [term.requires_grad for term in terms] == [True, False, False]


def test_without_gradients_the_loss_is_the_same():
    case = small_case()
    expected = candidate_loss(*case, Objective(1.0))
    with torch.no_grad():
        found = candidate_loss(*case, Objective(1.0))
    assert not found.loss.requires_grad
    assert [term.item() for term in found] == [term.item() for term in expected]


@pytest.mark.parametrize("chunk_elements", [1, 6, 11, 12, 30, 1000])
def test_chunks_of_rows_add_up_to_one_chunk(chunk_elements):
    states, items, candidates = small_case()
    whole = candidate_loss(states, items, candidates, Objective(0.5, 0.6))
    parts = candidate_loss(states, items, candidates, Objective(0.5, 0.6), chunk_elements=chunk_elements)
    torch.testing.assert_close(parts, whole, **ROUNDING)
    pairs = zip(gradients(parts.loss, states, items), gradients(whole.loss, states, items), strict=True)
    for left, right in pairs:
        torch.testing.assert_close(left, right, **ROUNDING)


def test_the_mean_is_over_as_many_rows_as_asked_for():
    states, items, candidates = small_case()
    mean = candidate_loss(states, items, candidates, Objective(0.5))
    half = candidate_loss(states, items, candidates, Objective(0.5), num_rows=10.0)
    torch.testing.assert_close([term * 2 for term in half], list(mean), **ROUNDING)
    for left, right in zip(gradients(half.loss, states), gradients(mean.loss, states), strict=True):
        torch.testing.assert_close(2 * left, right, **ROUNDING)


def test_an_upstream_factor_scales_the_gradients():
    states, items, candidates = small_case()
    loss = candidate_loss(states, items, candidates, Objective(0.5)).loss
    scaled = candidate_loss(states, items, candidates, Objective(0.5)).loss * 1024.0
    for left, right in zip(gradients(scaled, states, items), gradients(loss, states, items), strict=True):
        torch.testing.assert_close(left, 1024.0 * right, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_under_autocast_the_loss_is_that_of_float32(dtype):
    states, items, candidates = small_case(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = candidate_loss(states, items, candidates, Objective(0.5, 0.6))
        found = gradients(terms.loss, states, items)
    wide = [[tensor.detach().float().requires_grad_() for tensor in group] for group in (states, items)]
    expected = candidate_loss(*wide, candidates, Objective(0.5, 0.6))
    assert {term.dtype for term in terms} == {torch.float32}
    assert [term.item() for term in terms] == [term.item() for term in expected]
    for left, right in zip(found, gradients(expected.loss, *wide), strict=True):
        assert torch.equal(left, right.to(dtype))


@pytest.mark.parametrize("kd_weight", [0.0, 1.0])
@pytest.mark.parametrize("kl", [False, True])
def test_a_single_user_who_holds_every_item_has_loss_zero_and_finite_gradients(kl, kd_weight):
    batch, _ = batch_and_rows([[1, 2, 3, 2]], 3, 3, CandidateRule())
    states, items = vectors(3, 3), vectors(3, 3, seed=1)
    terms = candidate_loss(states, items, batch.candidates, Objective(kd_weight, 0.3, kl=kl))
    assert [term.item() for term in terms] == [0.0, 0.0, 0.0]
    assert all(torch.isfinite(gradient).all() for gradient in gradients(terms.loss, states, items))


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_large_scores_stay_finite(scale):
    states, items, candidates = small_case(dtype=torch.float32)
    large = [(tensor.detach() * scale).requires_grad_() for tensor in states]
    terms = candidate_loss(large, items, candidates, Objective(1.0, 0.1))
    assert torch.isfinite(torch.stack(list(terms))).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(terms.loss, large, items))
