import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import IMAGE_SIZE

from odmt.config import ImageEncoderConfig, TextEncoderConfig
from odmt.errors import ConfigError, DataError, MissingDataError
from odmt.features.demo_encoders import TINY_IMAGE, TINY_TEXT, make_tiny_encoders
from odmt.features.encoders import ImageEncoder, TextEncoder, load_encoder

TITLES = ["Red pen", "Blue ink well", "Red ink", "Pen, red", "Blue pen, large", "Red pen"]
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
NOWHERE = [TextEncoderConfig(model="no-such/model"), ImageEncoderConfig(model="no-such/model")]
SMALL = {
    "text": (TextEncoderConfig, {"layer": -1, "max_tokens": 12}),
    "image": (ImageEncoderConfig, {"layer": -1, "image_size": IMAGE_SIZE}),
}
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("dataset")
    assert make_tiny_encoders(target, TITLES)
    return target


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the tiny encoders that a test may damage."""
    shutil.copytree(folder / "encoders", tmp_path / "encoders")
    return tmp_path


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache on a machine that may not ask the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def features(encoder):
    """Features of something, whichever the modality."""
    return encoder.encode(["Red pen"])[0] if isinstance(encoder, TextEncoder) else encoder.encode([PICTURE], [b""])[0]


def fill_cache(cache, folder):
    """Put a model into the hub's cache as some/model at two commits; returns the folder of both."""
    model = cache / "models--some--model"
    (model / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        shutil.copytree(folder, model / "snapshots" / commit)
        (model / "refs" / name).write_text(commit)
    return model / "snapshots"


def rewrite(path, change):
    tensors = {name: change(name, tensor) for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


def test_a_configuration_gives_the_encoder_of_its_modality(folder):
    text, image = load_encoder(TINY_TEXT, folder), load_encoder(TINY_IMAGE, folder)
    assert (type(text), text.width, text.max_tokens, text.commit) == (TextEncoder, 64, 16, None)
    assert (type(image), image.width, image.max_tokens, image.commit) == (ImageEncoder, 64, 5, None)
    assert features(text).shape == (4, 64)
    assert features(image).shape == (5, 64)


def test_settings_that_do_not_fit_the_model_are_named(folder):
    with pytest.raises(ConfigError, match=r"features\.text: layer: 12, but \./encoders/text has 2 blocks"):
        load_encoder(TextEncoderConfig(model="./encoders/text"), folder)
    with pytest.raises(ConfigError, match=r"features\.text: max_tokens: 99, but \./encoders/text takes 64"):
        load_encoder(TextEncoderConfig(model="./encoders/text", layer=1, max_tokens=99), folder)
    with pytest.raises(ConfigError, match=r"features\.image: image_size: 224, but \./encoders/image takes 32"):
        load_encoder(ImageEncoderConfig(model="./encoders/image", layer=1), folder)


def test_files_that_lie_elsewhere_are_told_of_by_the_folder_that_was_asked_for(damaged, tmp_path):
    elsewhere = shutil.move(damaged / "encoders" / "text", tmp_path / "copy")
    wanted = tmp_path / "arts"
    assert load_encoder(TINY_TEXT, wanted, files=elsewhere).width == 64
    with pytest.raises(ConfigError, match=r"layer: 3, but \./encoders/text has 2 blocks"):
        load_encoder(TextEncoderConfig(model="./encoders/text", layer=3), wanted, files=elsewhere)
    (elsewhere / "model.safetensors").unlink()
    with pytest.raises(DataError, match=f"^{wanted}/encoders/text: is not a usable Hugging Face folder") as caught:
        load_encoder(TINY_TEXT, wanted, files=elsewhere)
    assert str(elsewhere) not in str(caught.value)


def test_a_hub_name_that_is_also_a_folder_here_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-base-uncased").mkdir()
    with pytest.raises(ConfigError, match=rf"features\.text\.model: the hub's bert-base-uncased has the name of the "
                       rf"folder {tmp_path}/bert-base-uncased, which .*; rename that folder .*\./name"):  # fmt: skip
        load_encoder(TextEncoderConfig(), tmp_path / "arts")


def test_a_commit_that_is_none_is_never_recorded(tiny_models, hub_cache, monkeypatch):
    at_v1 = fill_cache(hub_cache, tiny_models / "roberta") / COMMITS["v1"]
    at_v1.rename(at_v1.parent / "local")
    cached = str(at_v1.parent / "local" / "config.json")
    monkeypatch.setattr("transformers.utils.cached_file", lambda *_, **__: cached)
    with pytest.raises(
        DataError, match=r"some/model: \S+/local/config\.json lies in no folder named by a commit of 40"
    ):
        load_encoder(TextEncoderConfig(model="some/model"), hub_cache)


@pytest.mark.parametrize("config", NOWHERE)
def test_a_hub_model_without_a_hub_says_where_to_put_its_folder(hub_cache, config):
    kind = "text" if isinstance(config, TextEncoderConfig) else "image"
    file = "tokenizer" if kind == "text" else r"preprocessor_config\.json"
    sentence = (
        rf"features\.{kind}\.model: no-such/model could not be fetched \(.*; the environment sets HF_HUB_OFFLINE, "
        rf"which forbids fetching\); put its folder \(config\.json, weights, {file}\) at \S+/arts/encoders/model "
        rf"and set features\.{kind}\.model to \./encoders/model"
    )
    with pytest.raises(MissingDataError, match=sentence) as caught:
        load_encoder(config, hub_cache.parent / "arts")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("config", NOWHERE)
def test_the_environment_is_not_blamed_where_it_allows_fetching(tmp_path, monkeypatch, config):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.utils.cached_file", unreachable)
    with pytest.raises(MissingDataError, match=r"could not be fetched \(We couldn't connect\); put its folder"):
        load_encoder(config, tmp_path)


@pytest.mark.parametrize(("family", "kind"), [("roberta", "text"), ("clip_whole", "image")])
@pytest.mark.parametrize("revision", [None, "v1", COMMITS["v1"]])
def test_the_revision_decides_what_is_loaded_of_a_hub_model(tiny_models, hub_cache, family, kind, revision):
    snapshots = fill_cache(hub_cache, tiny_models / family)
    rewrite(snapshots / COMMITS["v1"] / "model.safetensors", lambda _, tensor: tensor / 2)
    config, settings = SMALL[kind]
    encoder = load_encoder(config(model="some/model", revision=revision, **settings), hub_cache)
    of_v1 = load_encoder(config(model=str(snapshots / COMMITS["v1"]), **settings), hub_cache)
    of_main = load_encoder(config(model=str(tiny_models / family), **settings), hub_cache)
    assert encoder.commit == (COMMITS["v1"] if revision else COMMITS["main"])
    np.testing.assert_array_equal(features(encoder), features(of_v1 if revision else of_main))
    assert not np.array_equal(features(of_v1), features(of_main))


@pytest.mark.parametrize(("family", "kind"), [("roberta", "text"), ("clip_whole", "image")])
def test_all_files_of_a_hub_model_are_asked_for_at_one_commit(tiny_models, hub_cache, monkeypatch, family, kind):
    import transformers

    asked = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoImageProcessor", "AutoModel"):
        load = getattr(transformers, name).from_pretrained

        def record(where, *arguments, name=name, load=load, **options):
            asked.append((name, where, options["revision"]))
            return load(where, *arguments, **options)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", record)
    fill_cache(hub_cache, tiny_models / family)
    config, settings = SMALL[kind]
    own = {"normalisation": "processor"} if kind == "image" else {}
    load_encoder(config(model="some/model", revision="v1", **settings, **own), hub_cache)
    parts = {"AutoConfig", "AutoModel", "AutoTokenizer" if kind == "text" else "AutoImageProcessor"}
    assert set(asked) == {(name, "some/model", COMMITS["v1"]) for name in parts}


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="is not a usable Hugging Face folder"):
        load_encoder(ImageEncoderConfig(model=str(tmp_path)), tmp_path)


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


@pytest.mark.parametrize(
    ("family", "unused"),
    [("clip_vision", "post_layernorm"), ("vit", "layernorm."), ("vit", "pooler"), ("swin", "swin.layernorm.")],
)
def test_weights_that_no_feature_reads_may_be_missing(tiny_models, tmp_path, family, unused):
    shutil.copytree(tiny_models / family, tmp_path / "part")
    config = {"layer": -1, "image_size": IMAGE_SIZE}
    whole = features(load_encoder(ImageEncoderConfig(model=str(tmp_path / "part"), **config), tmp_path))
    removed = []
    rewrite(
        tmp_path / "part" / "model.safetensors",
        lambda key, tensor: removed.append(key) if key.startswith(unused) else tensor,
    )
    assert len(removed) == 2
    part = features(load_encoder(ImageEncoderConfig(model=str(tmp_path / "part"), **config), tmp_path))
    np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("share", [0, 0.5])
def test_cut_off_weights_are_named(damaged, share):
    weights = damaged / "encoders" / "text" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"encoders/text: its weights cannot be read: .*; fetch them again"):
        load_encoder(TINY_TEXT, damaged)


def test_weights_in_the_older_format_are_read_and_damaged_ones_named(damaged):
    path = damaged / "encoders" / "text"
    expected = features(load_encoder(TINY_TEXT, damaged))
    older = path / "pytorch_model.bin"
    torch.save(load_file(path / "model.safetensors"), older)
    (path / "model.safetensors").unlink()
    np.testing.assert_array_equal(features(load_encoder(TINY_TEXT, damaged)), expected)
    for content in (b"", older.read_bytes()[:100], b"<html>not found</html>"):
        older.write_bytes(content)
        with pytest.raises(DataError, match=r"encoders/text: its weights cannot be read: .*; fetch them again"):
            load_encoder(TINY_TEXT, damaged)


@pytest.mark.parametrize(("name", "config"), [("text", TINY_TEXT), ("image", TINY_IMAGE)])
def test_weights_that_were_saved_in_half_precision_are_loaded_in_float32(damaged, name, config):
    path = damaged / "encoders" / name
    rewrite(path / "model.safetensors", lambda _, tensor: tensor.half())
    settings = (path / "config.json").read_text()
    (path / "config.json").write_text(settings.replace('"float32"', '"float16"'))
    in_half = load_encoder(config, damaged)
    assert {parameter.dtype for parameter in in_half._model.parameters()} == {torch.float32}
    rewrite(path / "model.safetensors", lambda _, tensor: tensor.float())
    (path / "config.json").write_text(settings)
    np.testing.assert_array_equal(features(in_half), features(load_encoder(config, damaged)))


def test_models_are_frozen_and_left_in_evaluation_mode(folder):
    for config in (TINY_TEXT, TINY_IMAGE):
        model = load_encoder(config, folder)._model
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_tiny_encoders_are_the_same_every_time_and_made_once(folder, tmp_path):
    assert not make_tiny_encoders(folder, TITLES)
    make_tiny_encoders(tmp_path, TITLES)
    for path in (folder / "encoders").rglob("*.*"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loading_and_encoding_print_nothing(folder, capfd, precision):
    for config in (TINY_TEXT, TINY_IMAGE):
        features(load_encoder(config, folder, "cpu", precision))
    assert capfd.readouterr() == ("", "")
