"""What the building blocks promise, each by itself."""

import pytest
import torch

from odmt.model.attention import MultiHeadAttention, TransformerBlock
from odmt.model.dropout import Dropout
from odmt.model.fusion import ContentTransformer, IdAwareMultimodalTransformer
from odmt.model.losses import distillation_weight


@pytest.fixture
def item():
    torch.manual_seed(0)
    return {
        "id_MD": torch.randn(2, 8),
        "text_MTD": torch.randn(2, 3, 8),
        "image_MVD": torch.randn(2, 2, 8),
        "text_mask_MT": torch.tensor([[True, True, False], [True, True, True]]),
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


@pytest.mark.parametrize("id_masking", [True, False])
def test_padded_text_tokens_have_no_effect(item, id_masking):
    changed = item["text_MTD"].clone()
    changed[0, 2] = 100.0
    before, after = fusion(id_masking)(**item), fusion(id_masking)(**item | {"text_MTD": changed})
    for left, right in zip(before, after, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("id_masking", [True, False])
def test_no_mask_is_a_mask_of_real_tokens(item, id_masking):
    item.pop("text_mask_MT")
    masks = {"text_mask_MT": torch.ones(2, 3).bool(), "image_mask_MV": torch.ones(2, 2).bool()}
    for left, right in zip(fusion(id_masking)(**item), fusion(id_masking)(**item, **masks), strict=True):
        torch.testing.assert_close(left, right)


def test_the_content_transformer_reads_images_and_no_padding(item):
    torch.manual_seed(1)
    content = ContentTransformer(8, 2, 2, 0.0)
    item.pop("id_MD")
    before = content(**item)
    padding = item["text_MTD"].clone()
    padding[0, 2] = 100.0
    torch.testing.assert_close(content(**item | {"text_MTD": padding}), before, rtol=0, atol=0)
    assert not torch.allclose(content(**item | {"image_MVD": item["image_MVD"] + 1.0}), before)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_reading_with_few_queries_equals_the_whole_block_there(heads):
    torch.manual_seed(0)
    block = TransformerBlock(8, heads, 0.0).double()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    readable = torch.rand(3, 6, 6) < 0.6
    readable[:, :, 0] = True
    attention = block.attention
    whole = block.feed_forward(attention.finish(x, attention.mix(*attention.split(x), readable.unsqueeze(1))))
    few = block.read(x[:, [5, 0]], x, readable[:, [5, 0]])
    torch.testing.assert_close(few, whole[:, [5, 0]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_causal", [True, False])
def test_mixing_head_by_head_equals_the_fused_kernel(is_causal, monkeypatch):
    """With dropout a CPU mixes head by head; a mask that keeps everything makes the two comparable."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, 0.5).double()
    heads = attention.split(torch.randn(3, 6, 8, dtype=torch.float64))
    readable = None if is_causal else (torch.rand(3, 1, 6, 6) < 0.6) | torch.eye(6).bool()
    fused = attention.eval().mix(*heads, readable, is_causal=is_causal)
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x)
    torch.testing.assert_close(attention.train().mix(*heads, readable, is_causal=is_causal), fused, rtol=0, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads: 3 does not divide the width 8"):
        MultiHeadAttention(8, 3, 0.0)


def test_dropout_keeps_the_mean_and_drops_its_share():
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(100_001))
    assert (dropped == 0).double().mean().item() == pytest.approx(0.3, abs=0.006)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    assert len(dropped.unique()) == 2


def test_neighbouring_dropout_decisions_are_independent():
    """Four decisions come from one draw: their pairs must be as frequent as chance has it."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).view(-1, 4).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.015


def test_dropout_passes_gradients_where_it_passed_values():
    x = torch.ones(1000, requires_grad=True)
    dropped = Dropout(0.3)(x)
    dropped.sum().backward()
    torch.testing.assert_close(x.grad, dropped.detach())


def test_dropout_does_nothing_in_evaluation_and_repeats_with_the_seed():
    layer, x = Dropout(0.3), torch.randn(50)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_dropout_outside_its_range_is_refused(p):
    with pytest.raises(ValueError, match=rf"dropout: {p} is not in \[0, 1\)"):
        Dropout(p)


@pytest.mark.parametrize(
    ("epoch", "ramp", "expected"),
    [(1, 0, 0.4), (10, 20, 0.4 * 0.2865048), (20, 20, 0.4), (30, 20, 0.4)],
)
def test_the_ramp_by_hand(epoch, ramp, expected):
    assert distillation_weight(epoch, ramp, 0.4) == pytest.approx(expected)
