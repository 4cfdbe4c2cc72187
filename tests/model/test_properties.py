import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odmt.model.attention import MultiHeadAttention
from odmt.model.fusion import IdAwareMultimodalTransformer
from odmt.model.losses import distillation_loss, distillation_weight, in_batch_candidates
from odmt.model.sequence import SasRec


@pytest.fixture
def item():
    torch.manual_seed(0)
    return {
        "id_MD": torch.randn(2, 8),
        "text_MTD": torch.randn(2, 3, 8),
        "image_MVD": torch.randn(2, 2, 8),
        "text_mask_MT": torch.tensor([[True, True, False], [True, True, True]]),
        "image_mask_MV": torch.ones(2, 2, dtype=torch.bool),
    }


def fusion(id_masking=True):
    torch.manual_seed(1)
    return IdAwareMultimodalTransformer(8, 2, 2, 0.0, id_masking)


def test_content_views_do_not_depend_on_the_id(item):
    before = fusion()(**item)
    after = fusion()(**item | {"id_MD": torch.randn(2, 8)})
    torch.testing.assert_close(after.text, before.text, rtol=0, atol=0)
    torch.testing.assert_close(after.image, before.image, rtol=0, atol=0)
    assert not torch.allclose(after.id, before.id)


def test_without_id_masking_content_views_read_the_id(item):
    before = fusion(id_masking=False)(**item)
    after = fusion(id_masking=False)(**item | {"id_MD": torch.randn(2, 8)})
    assert not torch.allclose(after.text, before.text)


def test_padded_text_tokens_have_no_effect(item):
    changed = item["text_MTD"].clone()
    changed[0, 2] = 100.0
    before, after = fusion()(**item), fusion()(**item | {"text_MTD": changed})
    for left, right in zip(before, after, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def sasrec():
    torch.manual_seed(2)
    return SasRec(8, 5, 2, 2, 0.0)


def test_a_position_does_not_read_the_future():
    items, mask = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
    changed = items.clone()
    changed[:, 3:] = 0.0
    encoder = sasrec()
    torch.testing.assert_close(encoder(items, mask)[:, :3], encoder(changed, mask)[:, :3])


def test_what_stands_at_padding_changes_nothing_at_real_positions():
    items = torch.randn(1, 5, 8)
    mask = torch.tensor([[False, False, True, True, True]])
    changed = items.clone()
    changed[:, :2] = 7.0
    encoder = sasrec()
    torch.testing.assert_close(encoder(items, mask)[:, 2:], encoder(changed, mask)[:, 2:])


def test_an_all_padding_row_stays_finite():
    encoder = sasrec()
    out = encoder(torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads: 3 does not divide the width 8"):
        MultiHeadAttention(8, 3, 0.0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=0, max_size=4), min_size=1, max_size=4))
def test_candidates_equal_a_plain_reading_of_the_definition(sequences):
    slots = torch.tensor([[0] * (4 - len(row)) + row for row in sequences])
    columns = slots.flatten().tolist()
    rows, labels, masked = [], [], []
    for user, row in enumerate(slots.tolist()):
        for position in range(3):
            if row[position]:
                label = user * 4 + position + 1
                rows.append(user * 3 + position)
                labels.append(label)
                masked.append([(item == 0 or item in row) and place != label for place, item in enumerate(columns)])
    found = in_batch_candidates(slots)
    assert found.rows.tolist() == rows
    assert found.label.tolist() == labels
    assert found.masked.tolist() == masked


def test_distillation_of_equal_logits_is_the_entropy():
    logits = torch.tensor([[0.0, 0.0]])
    assert distillation_loss(logits, logits, 2.0, detach_teacher=False).item() == pytest.approx(4 * 0.693147, abs=1e-5)


@pytest.mark.parametrize("detached", [True, False])
def test_gradients_reach_the_teacher_unless_detached(detached):
    student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = distillation_loss(student.requires_grad_(), teacher, 1.0, detach_teacher=detached)
    loss.backward()
    assert (teacher.grad is None) is detached


@pytest.mark.parametrize(
    ("epoch", "ramp", "expected"),
    [(1, 0, 0.4), (10, 20, 0.4 * 0.2865048), (20, 20, 0.4), (30, 20, 0.4)],
)
def test_the_ramp_by_hand(epoch, ramp, expected):
    assert distillation_weight(epoch, ramp, 0.4) == pytest.approx(expected)
