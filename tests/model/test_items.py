"""Item encoders, each against its formula written down item by item."""

from typing import NamedTuple

import plain_reference as plain
import pytest
import torch

from odmt.model.baselines import make_item_encoder
from odmt.model.items import ItemShape, ItemTokens

NUM_ITEMS, TEXT_WIDTH, IMAGE_WIDTH, ID_WIDTH, WIDTH, HEADS = 6, 5, 7, 3, 8, 2
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
EXACT = {"rtol": 0, "atol": 0}
NAMES = ("imt", "late", "early-sum", "early-concat", "non-invasive", "id", "text", "image")
WITH_ID = tuple(name for name in NAMES if name not in ("text", "image"))
SUMMARIES_ONLY = ("late", "early-sum", "early-concat", "text", "image")
BRANCHES = {"imt": ("id", "text", "image"), "late": ("id", "text", "image"), "id": ("id",), "text": ("text",)} | {
    "image": ("image",),
    "early-sum": ("joint",),
    "early-concat": ("joint",),
    "non-invasive": ("joint",),
}


def make(name, *, id_masking=True, **sizes):
    """A float64 encoder of which no parameter is 0 or 1."""
    torch.manual_seed(2)
    id_dim = WIDTH if name == "id" else ID_WIDTH
    shape = ItemShape(NUM_ITEMS, TEXT_WIDTH, IMAGE_WIDTH, id_dim, WIDTH, 2, HEADS, 0.0)
    encoder = make_item_encoder(name, shape._replace(**sizes), id_masking=id_masking).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def ids():
    return torch.tensor([4, 1, 6, 1])


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(5)
    text, image = (
        torch.randn(4, length, width, dtype=torch.float64, generator=generator)
        for length, width in ((3, TEXT_WIDTH), (4, IMAGE_WIDTH))
    )
    text_mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
    image_mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    return ItemTokens(text, text_mask, image, image_mask)


class Item(NamedTuple):
    """What is known of one item."""

    row: int
    text: torch.Tensor
    text_mask: torch.Tensor
    image: torch.Tensor
    image_mask: torch.Tensor


def leaky(x):
    return torch.where(x > 0, x, 0.01 * x)


def linear(x, parameters, name):
    return parameters[f"{name}.weight"] @ x + parameters[f"{name}.bias"]


def head(x, parameters, name):
    return linear(leaky(linear(x, parameters, f"{name}.0")), parameters, f"{name}.2")


def projected(item, parameters):
    """The ID embedding and the two summary tokens, each in width D."""
    return {
        "id": linear(parameters["id_table.weight"][item.row], parameters, "id_projection"),
        "text": linear(item.text[0], parameters, "text_projection"),
        "image": linear(item.image[0], parameters, "image_projection"),
    }


def imt(item, parameters):
    fused = plain.fuse_item(
        linear(parameters["id_table.weight"][item.row], parameters, "id_projection"),
        torch.stack([linear(token, parameters, "text_projection") for token in item.text]),
        torch.stack([linear(token, parameters, "image_projection") for token in item.image]),
        item.text_mask,
        item.image_mask,
        plain.under(parameters, "fusion."),
        HEADS,
        True,
    )
    views = dict(zip(("id", "text", "image"), fused, strict=True))
    return [head(views[branch], parameters, f"heads.{branch}") for branch in ("id", "text", "image")]


def late(item, parameters):
    parts = projected(item, parameters)
    return [head(parts[branch], parameters, f"heads.{branch}") for branch in ("id", "text", "image")]


def early_sum(item, parameters):
    parts = projected(item, parameters)
    return [head(parts["id"] + parts["text"] + parts["image"], parameters, "head")]


def early_concat(item, parameters):
    parts = projected(item, parameters)
    return [head(torch.cat([parts["id"], parts["text"], parts["image"]]), parameters, "head")]


def non_invasive(item, parameters):
    text = [linear(token, parameters, "text_projection") for token in item.text[item.text_mask]]
    image = [linear(token, parameters, "image_projection") for token in item.image[item.image_mask]]
    real = torch.stack([*text, *image])
    everywhere = real.new_zeros(len(real), len(real))
    content = plain.transformer(real, everywhere, plain.under(parameters, "content."), HEADS)[0]
    inner = leaky(linear(parameters["id_table.weight"][item.row], parameters, "id_inner"))
    return [leaky(linear(inner, parameters, "id_outer") + content)]


def id_alone(item, parameters):
    return [parameters["id_table.weight"][item.row]]


def text_alone(item, parameters):
    return [head(linear(item.text[0], parameters, "projection"), parameters, "head")]


def image_alone(item, parameters):
    return [head(linear(item.image[0], parameters, "projection"), parameters, "head")]


FORMULAS = dict(
    zip(
        NAMES,
        (imt, late, early_sum, early_concat, non_invasive, id_alone, text_alone, image_alone),
        strict=True,
    )
)


def encode(encoder, ids, tokens):
    return encoder(encoder.embed(ids), tokens)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_equal_the_formula_item_by_item(name, ids, tokens):
    encoder = make(name)
    parameters = {key: value.detach() for key, value in encoder.named_parameters()}
    expected = [FORMULAS[name](Item(row, *of_item), parameters) for row, *of_item in zip(ids, *tokens, strict=True)]
    found = encode(encoder, ids, tokens)
    assert len(found) == len(encoder.branches)
    for branch, vectors in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(branch.detach(), torch.stack(vectors), **ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_branches_and_reads_of_every_encoder(name):
    encoder = make(name)
    assert encoder.branches == BRANCHES[name]
    expected = "nothing" if name == "id" else "summaries" if name in SUMMARIES_ONLY else "all"
    assert encoder.reads == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name, ids, tokens):
    encoder = make(name)
    sum((branch * torch.randn_like(branch)).sum() for branch in encode(encoder, ids, tokens)).backward()
    lacking = [key for key, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert lacking == []


@pytest.mark.parametrize("name", WITH_ID)
def test_only_the_rows_of_encoded_items_get_a_gradient(name, ids, tokens):
    encoder = make(name)
    sum(branch.square().sum() for branch in encode(encoder, ids, tokens)).backward()
    touched = encoder.id_table.weight.grad.any(dim=1)
    assert touched.nonzero().flatten().tolist() == [1, 4, 6]


@pytest.mark.parametrize("name", SUMMARIES_ONLY)
def test_encoders_of_summaries_need_only_the_first_tokens(name, ids, tokens):
    first = ItemTokens(tokens.text[:, :1], None, tokens.image[:, :1], None)
    encoder = make(name)
    for alone, among in zip(encode(encoder, ids, first), encode(encoder, ids, tokens), strict=True):
        torch.testing.assert_close(alone, among, **EXACT)


@pytest.mark.parametrize("name", ["imt", "non-invasive"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_encoders_of_all_tokens_read_real_tokens_past_the_first_and_no_padding(name, modality, ids, tokens):
    encoder = make(name)
    before = encode(encoder, ids, tokens)
    mask, values = getattr(tokens, f"{modality}_mask"), getattr(tokens, modality)
    padding = values.masked_fill(~mask.unsqueeze(2), 50.0)
    later = values.clone()
    later[1 if modality == "text" else 0, 2] += 1.0
    for unchanged, reference in zip(encode(encoder, ids, tokens._replace(**{modality: padding})), before, strict=True):
        torch.testing.assert_close(unchanged, reference, **EXACT)
    for changed, reference in zip(encode(encoder, ids, tokens._replace(**{modality: later})), before, strict=True):
        assert not torch.allclose(changed, reference)


def test_the_id_encoder_reads_no_features(ids, tokens):
    encoder = make("id")
    nothing = ItemTokens(torch.empty(4, 1, 0), None, torch.empty(4, 1, 0), None)
    torch.testing.assert_close(encode(encoder, ids, nothing), encode(encoder, ids, tokens), **EXACT)


def test_the_id_encoder_refuses_a_table_of_another_width():
    with pytest.raises(ValueError, match=r"must be as wide as model\.embedding_dim 8, got 3"):
        make("id", id_dim=ID_WIDTH)


def test_the_image_reaches_non_invasive_items_through_the_content_transformer(ids, tokens):
    encoder = make("non-invasive")
    changed = tokens._replace(image=tokens.image + 1.0)
    assert not torch.allclose(encode(encoder, ids, changed)[0], encode(encoder, ids, tokens)[0])
    encoder.content = type("Without", (torch.nn.Module,), {"forward": lambda self, text, *_: text[:, 0]})()
    torch.testing.assert_close(encode(encoder, ids, changed), encode(encoder, ids, tokens), **EXACT)


@pytest.mark.parametrize(("id_masking", "changes"), [(True, False), (False, True)])
def test_content_branches_of_the_imt_know_the_id_only_without_masking(id_masking, changes, ids, tokens):
    encoder = make("imt", id_masking=id_masking)
    before = encode(encoder, ids, tokens)
    after = encode(encoder, ids + torch.tensor([0, 1, 0, 0]), tokens)
    for branch, left, right in zip(encoder.branches, before, after, strict=True):
        assert torch.equal(left[1], right[1]) != (changes or branch == "id")


@pytest.mark.parametrize("name", ["text", "image"])
def test_content_encoders_have_no_id_table_and_do_not_know_the_id(name, ids, tokens):
    encoder = make(name)
    assert encoder.id_table is None
    assert not any("id" in key.split(".")[0].split("_") for key, _ in encoder.named_parameters())
    assert encoder.embed(ids).shape == (4, 0)
    torch.testing.assert_close(encode(encoder, ids, tokens), encode(encoder, ids.flip(0), tokens), **EXACT)


@pytest.mark.parametrize("name", ["text", "image"])
def test_content_encoders_read_their_own_modality_alone(name, ids, tokens):
    other = "image" if name == "text" else "text"
    encoder = make(name)
    before = encode(encoder, ids, tokens)[0]
    same = encode(encoder, ids, tokens._replace(**{other: getattr(tokens, other) + 1.0}))[0]
    changed = encode(encoder, ids, tokens._replace(**{name: getattr(tokens, name) + 1.0}))[0]
    assert torch.equal(same, before)
    assert not torch.allclose(changed, before)


TEXT_SUMMARY = torch.arange(48.0).view(6, 8)
IMAGE_SUMMARY = 100.0 + 3.0 * torch.arange(48.0).view(6, 8)
STARTS = {
    "text": [[8.0, 9.0], [16.0, 17.0]],
    "image": [[124.0, 127.0], [148.0, 151.0]],
    "text+image": [[66.0, 68.0], [82.0, 84.0]],
}
"""The first two columns of rows 2 and 3 by hand; text + image is their mean, (8 + 124) / 2 = 66."""


@pytest.mark.parametrize("name", WITH_ID)
@pytest.mark.parametrize("start", STARTS)
def test_the_id_table_starts_at_the_summaries_and_padding_stays(start, name):
    encoder = make(name, id_dim=8)
    padding = encoder.id_table.weight[0].clone()
    encoder.start_id_table(start, TEXT_SUMMARY, IMAGE_SUMMARY)
    assert encoder.id_table.weight[2:4, :2].tolist() == STARTS[start]
    assert torch.equal(encoder.id_table.weight[0], padding)
    assert encoder.id_table.weight.requires_grad
    assert encoder.id_table.weight.is_leaf


@pytest.mark.parametrize("name", WITH_ID)
def test_a_random_start_leaves_the_id_table_as_it_is(name):
    encoder = make(name)
    before = encoder.id_table.weight.clone()
    encoder.start_id_table("random", TEXT_SUMMARY, IMAGE_SUMMARY)
    assert torch.equal(encoder.id_table.weight, before)


@pytest.mark.parametrize("name", WITH_ID)
@pytest.mark.parametrize("start", ["random", *STARTS])
def test_the_id_table_is_a_copy_of_the_summaries(start, name):
    encoder = make(name, id_dim=8).float()
    text, image = TEXT_SUMMARY.clone(), IMAGE_SUMMARY.clone()
    encoder.start_id_table(start, text, image)
    with torch.no_grad():
        encoder.id_table.weight.add_(1.0)
    assert torch.equal(text, TEXT_SUMMARY)
    assert torch.equal(image, IMAGE_SUMMARY)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("text", "'text' needs an ID table as wide as the text features, got 8 and 5"),
        ("image", "'image' needs an ID table as wide as the image features, got 8 and 7"),
        ("text+image", "'text.image' needs an ID table as wide as the image features, got 8 and 7"),
    ],
)
def test_features_of_another_width_cannot_start_the_id_table(start, message):
    text = torch.zeros(NUM_ITEMS, 8 if start == "text+image" else TEXT_WIDTH)
    with pytest.raises(ValueError, match=message):
        make("late", id_dim=8).start_id_table(start, text, torch.zeros(NUM_ITEMS, IMAGE_WIDTH))


@pytest.mark.parametrize("name", ["text", "image"])
def test_encoders_without_an_id_table_have_nothing_to_start(name):
    encoder = make(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.start_id_table("text+image", TEXT_SUMMARY, IMAGE_SUMMARY)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
