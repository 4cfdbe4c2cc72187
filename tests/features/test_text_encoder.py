import json

import numpy as np
import pytest
import torch
from golden_files import GOLDEN
from tiny_models import POSITIONS, TEXT_FAMILIES, TITLES, WIDTH

from odmt.config import TextEncoderConfig
from odmt.errors import ConfigError
from odmt.features import text_encoder
from odmt.features.text_encoder import TextEncoder, tokenize

NEAR = {"rtol": 2e-3, "atol": 2e-3}  # a float16 step and a little; features here reach about 3


def load(folder, family, precision="fp32", **settings):
    settings = {"layer": -1, "max_tokens": 12} | settings
    return TextEncoder(TextEncoderConfig(model=str(folder / family), **settings), folder, precision=precision)


def model_of(folder, family):
    from transformers import BertModel, RobertaModel

    kind = RobertaModel if family == "roberta" else BertModel
    return kind.from_pretrained(folder / family, local_files_only=True).eval()


def ids_of(folder, family, title):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / family, local_files_only=True)(title)["input_ids"]


def plain_states(model, ids):
    """Every hidden state of one title without padding: the model's own embeddings and blocks, one after another."""
    with torch.no_grad():
        states = [model.embeddings(input_ids=torch.tensor([ids]))]
        for block in model.encoder.layer:
            output = block(states[-1])
            states.append(output[0] if isinstance(output, tuple) else output)
    return [state[0].numpy() for state in states]


def inputs_of(encoder, titles):
    """What the model was called with, one dictionary a call."""
    calls = []
    hook = encoder._model.register_forward_pre_hook(lambda _, __, inputs: calls.append(inputs), with_kwargs=True)
    encoder.encode(titles)
    hook.remove()
    return calls


@pytest.mark.parametrize("name", ["amazon", "ks", "hm", "quirk_duplicate_user"])
def test_tokens_are_those_of_the_released_code(name, tmp_path):
    from transformers import BertTokenizer

    golden = json.loads((GOLDEN / f"data_{name}.json").read_text())
    (tmp_path / "vocab.txt").write_text("\n".join(golden["tokenizer"]["vocab"]) + "\n")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    separator = "," if name == "ks" else "\t"
    lines = [line.split(separator, 1) for line in golden["files"]["text"].splitlines()]
    title_of = {item: " ".join(title.split("\t")) for item, title in lines}
    expected = golden["expected"]
    titles = [title_of[item] for item in expected["item_names_by_id"][1:]]
    length = golden["settings"]["num_words_title"]
    found = tokenize(tokenizer, titles, length, lower_case=True)
    padded = [ids + [0] * (length - len(ids)) + [1] * len(ids) + [0] * (length - len(ids)) for ids in found]
    np.testing.assert_array_equal(padded, expected["item_content"][1:])


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_features_are_the_hidden_states_of_the_layer(tiny_models, family, layer):
    title = "红色 钢笔" if family == "chinese" else "blue ink well"
    expected = plain_states(model_of(tiny_models, family), ids_of(tiny_models, family, title))[layer]
    (found,) = load(tiny_models, family, layer=layer).encode([title])
    assert found.dtype == np.float16
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **NEAR)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_title_does_not_depend_on_what_it_is_batched_with(tiny_models, family):
    encoder = load(tiny_models, family)
    together = encoder.encode([*TITLES, "", *TITLES])
    for title, found in zip([*TITLES, "", *TITLES], together, strict=True):
        np.testing.assert_allclose(found, encoder.encode([title])[0], **NEAR)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_same_batch_gives_the_same_bytes(tiny_models, family):
    encoder = load(tiny_models, family)
    first, again = (b"".join(array.tobytes() for array in encoder.encode(TITLES)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("step", [1, 3, 100])
def test_features_do_not_depend_on_how_a_batch_is_split(tiny_models, monkeypatch, step):
    encoder = load(tiny_models, "roberta", max_tokens=18)
    usual = encoder.encode(TITLES)
    monkeypatch.setattr(text_encoder, "_LENGTH_STEP", step)
    for found, expected in zip(encoder.encode(TITLES), usual, strict=True):
        np.testing.assert_allclose(found, expected, **NEAR)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_long_titles_are_cut_and_keep_their_separator(tiny_models, family):
    encoder = load(tiny_models, family, max_tokens=5, lower_case=False)
    title = "红色钢笔红色钢笔" if family == "chinese" else "red pen red pen red pen"
    ids = ids_of(tiny_models, family, title)
    cut = [*ids[:4], ids[-1]]
    (call,) = inputs_of(encoder, [title])
    assert call["input_ids"].tolist() == [cut]
    np.testing.assert_allclose(encoder.encode([title])[0], plain_states(model_of(tiny_models, family), cut)[-1], **NEAR)


@pytest.mark.parametrize(("family", "padding"), [("bert", 0), ("roberta", 1), ("chinese", 0)])
def test_titles_are_padded_on_the_right_with_the_tokenizers_own_padding(tiny_models, family, padding):
    (call,) = inputs_of(load(tiny_models, family), ["", "pen"])
    ids, mask = call["input_ids"], call["attention_mask"]
    assert ids.shape == (2, 4)
    assert mask[0].tolist() == [1, 1, 0, 0]
    assert set(ids[mask == 0].tolist()) == {padding}


def test_titles_run_with_those_of_like_length(tiny_models):
    encoder = load(tiny_models, "bert", max_tokens=10)
    lengths = encoder.count_tokens(TITLES)
    np.testing.assert_array_equal(lengths, [4, 5, 4, 5, 6, 10])
    calls = inputs_of(encoder, TITLES)
    assert [tuple(call["input_ids"].shape) for call in calls] == [(2, 4), (3, 8), (1, 10)]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_tokens_are_counted_without_the_model(tiny_models, family, monkeypatch):
    encoder = load(tiny_models, family)
    titles = [*TITLES, "", "pen " * 50, "红色 钢笔"]
    lengths = [len(array) for array in encoder.encode(titles)]
    monkeypatch.setattr(encoder, "_model", None)
    counted = encoder.count_tokens(titles)
    assert np.issubdtype(counted.dtype, np.integer)
    np.testing.assert_array_equal(counted, lengths)
    assert encoder.count_tokens([]).shape == (0,)


def test_chinese_titles_are_split_by_character(tiny_models):
    encoder = load(tiny_models, "chinese")
    np.testing.assert_array_equal(encoder.count_tokens(["红色 钢笔", "红色pen笔"]), [6, 6])
    (call,) = inputs_of(encoder, ["红色 钢笔"])
    lines = (tiny_models / "chinese" / "vocab.txt").read_text().splitlines()
    assert [lines[number] for number in call["input_ids"][0][:6]] == ["[CLS]", *"红色钢笔", "[SEP]"]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_case_is_ignored_as_configured(tiny_models, family):
    lower = load(tiny_models, family).encode(["RED Pen", "red pen"])
    np.testing.assert_array_equal(*lower)
    kept = load(tiny_models, family, lower_case=False).encode(["RED Pen", "red pen"])
    its_tokenizer_lowers = family == "bert"
    assert np.array_equal(*kept) == its_tokenizer_lowers


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_title_may_fill_all_positions_of_the_model_and_no_more(tiny_models, family):
    encoder = load(tiny_models, family, max_tokens=POSITIONS)
    (found,) = encoder.encode(["pen " * 50])
    assert found.shape == (POSITIONS, WIDTH)
    with pytest.raises(ConfigError, match=rf"max_tokens: {POSITIONS + 1}, but \S+/{family} takes {POSITIONS}"):
        load(tiny_models, family, max_tokens=POSITIONS + 1)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.1), ("fp16", 0.015)])
def test_narrow_arithmetic_stays_near_float32(tiny_models, family, precision, tolerance):
    exact = np.concatenate(load(tiny_models, family).encode(TITLES)).astype(np.float32)
    narrow = np.concatenate(load(tiny_models, family, precision).encode(TITLES)).astype(np.float32)
    difference = np.abs(narrow - exact).max()
    assert 0 < difference < tolerance


def test_no_titles_have_no_features(tiny_models):
    assert load(tiny_models, "bert").encode([]) == []


def test_what_float16_does_not_hold_becomes_infinite(tiny_models):
    encoder = load(tiny_models, "bert")
    last = encoder._model.encoder.layer[-1].output.LayerNorm
    last.weight.zero_()
    last.bias.copy_(torch.tensor([70000.0, -70000.0, 65504.0, *[0.0] * (WIDTH - 3)]))
    np.testing.assert_array_equal(encoder.encode(["pen"])[0][0, :3], [np.inf, -np.inf, 65504.0])


def test_a_model_that_starts_no_text_with_a_summary_token_is_refused(tiny_models, tmp_path):
    import shutil

    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    shutil.copytree(tiny_models / "bert", tmp_path / "plain")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(str(tmp_path / "plain"))
    (tmp_path / "plain" / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match=r"features\.text: model: \S+/plain does not start a text with a summary"):
        load(tmp_path, "plain")
