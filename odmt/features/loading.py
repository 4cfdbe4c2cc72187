"""Loading a frozen model from a folder or the hub, and running it: what both encoders share."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from odmt.errors import ConfigError, DataError, MissingDataError
from odmt.features.store import EncoderConfig, modality_of, model_folder, named_folder

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]

# Weights that no kept hidden state depends on; folders saved without them are fine.
_UNUSED_WEIGHTS = re.compile(r"(^|\.)(pooler|post_layernorm|visual_projection)\.|^layernorm\.")


_COMMIT = re.compile("[0-9a-f]{40}")


class Source(NamedTuple):
    """What ``from_pretrained`` needs.

    Attributes:
        where: a folder or a hub name.
        name: the same for people: the folder that the configuration names.
        options: keyword arguments; of a hub model they name the commit, so that all its files are of one.
        commit: that commit, None for a folder.
    """

    where: str
    name: str
    options: dict[str, Any]
    commit: str | None


@contextlib.contextmanager
def loading(config: EncoderConfig, dataset_folder: Path, files: Path | None = None) -> Iterator[Source]:
    """Give the source of a model, and turn the many errors of reading it into one sentence.

    Args:
        config: which model.
        dataset_folder: where ``./name`` is.
        files: where the files of a model lie whose own folder is on another machine; None = in that folder.

    Raises:
        MissingDataError: the model is neither in the folder nor can it be fetched; says where to put it.
        DataError: the folder is no model, or its weights are cut off.
        ConfigError: a folder in the current one has the hub model's name.
    """
    from safetensors import SafetensorError

    folder = files or model_folder(config, dataset_folder)
    name = str(named_folder(config, dataset_folder) or config.model)
    if folder is None:
        _require_no_namesake(config)
    try:
        with quiet_transformers():
            if folder:
                yield Source(str(folder), name, {"local_files_only": True}, None)
            else:
                commit = _hub_commit(config)
                yield Source(config.model, name, {"revision": commit}, commit)
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{name}: its weights cannot be read: {_reason(error)}; fetch them again") from error
    except (EOFError, UnpicklingError) as error:  # torch's own sentence advises to trust the file
        raise DataError(f"{name}: its weights cannot be read: they are no tensors; fetch them again") from error
    except (OSError, ValueError, KeyError) as error:
        if folder:
            reason = _reason(error).replace(str(folder), name)
            raise DataError(f"{name}: is not a usable Hugging Face folder: {reason}") from error
        raise _not_fetched(config, dataset_folder, _reason(error)) from error


def load_model(source: Source, config: Any) -> Any:
    """Load a model's weights in float32 and freeze them; sets how exact this process's cuDNN is.

    Args:
        source: where the weights are.
        config: the transformers configuration of the part of the model that is wanted.

    Raises:
        DataError: weights that the features depend on are missing or have another shape. transformers itself would
            fill them with random numbers.
    """
    import torch
    from transformers import AutoModel

    # fp32 means fp32 in cuDNN's convolutions too, and the same batch gives the same bytes. Once a process:
    # encoders run in threads, where setting and putting back would interleave.
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = True, False, True, False
    model, found = AutoModel.from_pretrained(
        source.where,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **source.options,
    )
    mismatched = {name for name, *_ in found["mismatched_keys"]}
    for how, names in (("lack", found["missing_keys"]), ("have another shape of", mismatched)):
        needed = sorted(name for name in names if not _UNUSED_WEIGHTS.search(name))
        if needed:
            more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
            raise DataError(f"{source.name}: its weights {how} {', '.join(needed[:3])}{more}; fetch the whole model")
    model.config.tie_last_hidden_states = False  # the last hidden state is meant before a final LayerNorm
    return model.requires_grad_(False).eval()


def hidden_states(model: Any, precision: Precision, **inputs: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    """Run a frozen model.

    Args:
        model: what ``load_model`` gave.
        precision: ``fp32``, or the narrower format in which autocast runs matrix products.
        inputs: what the model takes, on its device.

    Returns:
        The embeddings and each block's output, before any final LayerNorm; nothing if the model has no hidden states.
    """
    import torch

    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with (
        torch.inference_mode(),
        torch.autocast(model.device.type, dtype=narrow, enabled=narrow is not None),
    ):
        output = model(**inputs, output_hidden_states=True)
    return tuple(output.hidden_states or ())


def _hub_commit(config: EncoderConfig) -> str:
    """Return the commit that a hub model's revision means now; fetches its config.json into the cache.

    Configurations of transformers 5 no longer tell it.

    Raises:
        OSError: the hub cannot be reached and the cache lacks the file, or there is no such model or revision.
        DataError: the cache names no commit.
    """
    from transformers.utils import cached_file

    file = cached_file(config.model, "config.json", revision=config.revision)
    if file is None:
        raise OSError("it holds no config.json")
    commit = Path(file).parent.name  # .../snapshots/<commit>/config.json
    if not _COMMIT.fullmatch(commit):
        raise DataError(
            f"{config.model}: {file} lies in no folder named by a commit of 40 hex digits, so that its version "
            f"cannot be told; set features.{modality_of(config)}.model to the model's folder"
        )
    return commit


def _require_no_namesake(config: EncoderConfig) -> None:
    """Refuse a hub name that is also a folder here: transformers would silently load the folder."""
    folder = Path.cwd() / config.model
    if folder.is_dir():
        problem = (
            f"the hub's {config.model} has the name of the folder {folder}, which transformers would load instead; "
            f"rename that folder or work in another one, or if it is meant, write {folder}, or ./name if it lies "
            "inside the data set's own"
        )
        raise ConfigError(f"features.{modality_of(config)}.model", [problem])


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _not_fetched(config: EncoderConfig, dataset_folder: Path, reason: str) -> MissingDataError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        reason += "; the environment sets HF_HUB_OFFLINE, which forbids fetching"
    kind = modality_of(config)
    own = dataset_folder / "encoders" / config.model.rsplit("/", 1)[-1]
    return MissingDataError(
        f"features.{kind}.model: {config.model} could not be fetched ({reason}); put its folder (config.json, "
        f"weights, {'tokenizer' if kind == 'text' else 'preprocessor_config.json'}) at {own}"
        f" and set features.{kind}.model to ./encoders/{own.name}"
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars, advice and warnings of transformers and the hub, by name, for a while."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    levels = transformers_logging.get_verbosity(), hub.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|huggingface_hub)(\.|$)")
            yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()
