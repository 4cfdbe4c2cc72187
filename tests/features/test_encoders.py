import json
import shutil

import numpy as np
import pytest
import torch
from golden_files import GOLDEN
from PIL import Image
from safetensors.torch import load_file, save_file

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import ConfigError, DataError, MissingDataError
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT, make_tiny_encoders
from odmt.features.encoders import ImageEncoder, TextEncoder, load_encoder, tokenize

TITLES = ["Red pen", "Blue ink well", "Red ink", "Pen, red", "Blue pen, large", "Red pen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("dataset")
    assert make_tiny_encoders(target, TITLES)
    return target


@pytest.fixture(scope="module")
def text(folder):
    return TextEncoder(TINY_TEXT, folder)


@pytest.fixture(scope="module")
def image(folder):
    return ImageEncoder(TINY_IMAGE, folder)


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
    found = tokenize(tokenizer, titles, golden["settings"]["num_words_title"], lower_case=True)
    np.testing.assert_array_equal(np.hstack([found.ids, found.mask]), expected["item_content"][1:])


def test_a_title_has_a_token_each_real_word_piece_and_two_special_ones(text):
    red, empty = text.encode(["Red pen", ""])
    assert (red.shape, empty.shape, red.dtype) == ((4, 64), (2, 64), np.float32)


def test_a_title_does_not_depend_on_what_it_is_batched_with(text):
    (alone,) = text.encode(["Red pen"])
    among = text.encode(["Blue ink well and very many more words", "Red pen"])[1]
    np.testing.assert_allclose(among, alone, atol=1e-5)


def test_long_titles_are_cut_and_case_is_ignored_as_configured(folder, text):
    assert len(text.encode(["red " * 50])[0]) == 16
    np.testing.assert_array_equal(text.encode(["RED Pen"])[0], text.encode(["red pen"])[0])


def test_text_features_are_the_hidden_states_of_the_layer(folder, text):
    from transformers import AutoModel, AutoTokenizer

    path = folder / "encoders" / "text"
    model = AutoModel.from_pretrained(path, local_files_only=True).eval()
    inputs = AutoTokenizer.from_pretrained(path, local_files_only=True)(["blue ink"], return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    first = TextEncoder(TextEncoderConfig(model=str(path), layer=1, max_tokens=16), folder)
    np.testing.assert_allclose(text.encode(["Blue ink"])[0], states[2][0], atol=1e-5)
    np.testing.assert_allclose(first.encode(["Blue ink"])[0], states[1][0], atol=1e-5)


def test_image_features_are_taken_before_the_final_layer_norm(folder, image):
    from transformers import CLIPVisionModel

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    model = CLIPVisionModel.from_pretrained(folder / "encoders" / "image", local_files_only=True).eval()
    pixels = torch.tensor(np.asarray(picture) / 127.5 - 1.0, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
    (found,) = image.encode([picture])
    assert found.shape == (5, 64)
    np.testing.assert_allclose(found, output.hidden_states[-1][0], atol=1e-4)
    assert model.config.model_type == "clip_vision_model"


def test_pictures_are_squeezed_to_the_square_not_cropped(image):
    wide = Image.new("RGB", (300, 20), "red")
    wide.paste("blue", (150, 0, 300, 20))
    square = Image.new("RGB", (32, 32), "red")
    square.paste("blue", (16, 0, 32, 32))
    near = np.abs(image.encode([wide])[0] - image.encode([square])[0]).max()
    far = np.abs(image.encode([wide])[0] - image.encode([Image.new("RGB", (32, 32), "red")])[0]).max()
    assert near < far / 5


def test_a_whole_clip_model_gives_the_vision_tower_with_the_processors_normalisation(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    words = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 9,
    }
    clip = CLIPModel(CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 16}, text_config=words)).eval()
    clip.save_pretrained(tmp_path)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    config = ImageEncoderConfig(model=str(tmp_path), layer=1, image_size=32, normalisation="processor")
    (found,) = ImageEncoder(config, tmp_path).encode([Image.new("RGB", (9, 9), (255, 255, 255))])
    pixels = torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6])[None, :, None, None].expand(1, 3, 32, 32)
    with torch.no_grad():
        expected = clip.vision_model(pixels, output_hidden_states=True).hidden_states[1][0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_settings_that_do_not_fit_the_model_are_named(folder):
    with pytest.raises(ConfigError, match=r"features\.text: layer: 12, but \./encoders/text has 2 blocks"):
        load_encoder(TextEncoderConfig(model="./encoders/text"), folder)
    with pytest.raises(ConfigError, match=r"features\.text: max_tokens: 99, but \./encoders/text takes 64"):
        load_encoder(TextEncoderConfig(model="./encoders/text", layer=1, max_tokens=99), folder)
    with pytest.raises(ConfigError, match=r"features\.image: image_size: 224, but \./encoders/image takes 32"):
        load_encoder(ImageEncoderConfig(model="./encoders/image", layer=1), folder)


def test_a_hub_model_without_a_hub_says_where_to_put_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MissingDataError, match=r"no-such/model could not be fetched .*arts/encoders/model and set"
    ) as caught:
        load_encoder(TextEncoderConfig(model="no-such/model"), tmp_path / "arts")
    assert caught.value.exit_code == 3
    with pytest.raises(MissingDataError, match=r"features\.image\.model: no-such/clip could not be fetched"):
        load_encoder(ImageEncoderConfig(model="no-such/clip"), tmp_path / "arts")


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="is not a usable Hugging Face folder"):
        load_encoder(ImageEncoderConfig(model=str(tmp_path)), tmp_path)


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the tiny encoders that a test may damage."""
    shutil.copytree(folder / "encoders", tmp_path / "encoders")
    return tmp_path


def rewrite(path, change):
    tensors = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


@pytest.mark.parametrize(("name", "config"), [("text", TINY_TEXT), ("image", TINY_IMAGE)])
def test_missing_weights_are_refused_instead_of_drawn_at_random(damaged, name, config):
    weights = damaged / "encoders" / name / "model.safetensors"
    rewrite(weights, lambda key, tensor: None if ".1.mlp.fc1" in key or ".1.output" in key else tensor)
    sentence = rf"encoders/{name}: its weights lack \S+\.1\.(output|mlp\.fc1)\.\S+"
    with pytest.raises(DataError, match=sentence):
        load_encoder(config, damaged)


def test_weights_of_another_shape_are_refused(damaged):
    weights = damaged / "encoders" / "text" / "model.safetensors"
    rewrite(weights, lambda key, tensor: tensor[:, :32].contiguous() if "word_embeddings" in key else tensor)
    with pytest.raises(
        DataError, match=r"encoders/text: its weights have another shape of embeddings\.word_embeddings\.weight;"
    ):
        load_encoder(TINY_TEXT, damaged)


def test_weights_that_no_feature_reads_may_be_missing(damaged, image):
    weights = damaged / "encoders" / "image" / "model.safetensors"
    rewrite(weights, lambda key, tensor: None if "post_layernorm" in key else tensor)
    picture = [Image.new("RGB", (32, 32), "red")]
    np.testing.assert_array_equal(load_encoder(TINY_IMAGE, damaged).encode(picture)[0], image.encode(picture)[0])


@pytest.mark.parametrize("share", [0, 0.5])
def test_cut_off_weights_are_named(damaged, share):
    weights = damaged / "encoders" / "text" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"encoders/text: its weights cannot be read: .*; fetch them again"):
        load_encoder(TINY_TEXT, damaged)


def test_tiny_encoders_are_the_same_every_time_and_made_once(folder, tmp_path):
    assert not make_tiny_encoders(folder, TITLES)
    make_tiny_encoders(tmp_path, TITLES)
    for path in (folder / "encoders").rglob("*.*"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_loading_prints_nothing(folder, capfd):
    load_encoder(TINY_TEXT, folder)
    load_encoder(TINY_IMAGE, folder).encode([Image.new("RGB", (8, 8))])
    assert capfd.readouterr() == ("", "")
