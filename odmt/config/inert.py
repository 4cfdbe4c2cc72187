"""Which settings do nothing at the values of the others: two runs that differ in them alone are the same run."""

from collections.abc import Iterator

from odmt.config.loading import dotted_values
from odmt.config.sections import RunConfig

_DISTILL = ("distill.temperature", "distill.rampup_epochs", "distill.detach_teacher", "distill.objective")
_FUSION = ("fusion.num_layers", "fusion.num_heads", "fusion.dropout")
_LOSS = {
    "in-batch": ("loss.num_negatives",),
    "full": ("loss.num_negatives", "loss.popularity_power"),
    "sampled": ("loss.popularity_power",),
}


def inert_paths(config: RunConfig) -> Iterator[str]:
    """Yield the dotted paths of settings that change no number of this run; only those that are surely so."""
    encoder = config.model.item_encoder
    if encoder not in ("imt", "non-invasive"):
        yield from _FUSION
    if encoder != "imt":
        yield "fusion.id_masking"
    if encoder not in ("imt", "late"):
        yield from ("distill.weight", *_DISTILL)
    elif config.distill.weight == 0:
        yield from _DISTILL
    if config.model.backbone != "sasrec":
        yield "sequence.num_heads"
    if config.model.backbone != "nextitnet":
        yield "sequence.kernel_size"
    yield from _LOSS[config.loss.kind]


def effective_values(config: RunConfig) -> dict[str, object]:
    """Return the configuration's dotted values without those that do nothing."""
    inert = set(inert_paths(config))
    return {path: value for path, value in dotted_values(config).items() if path not in inert}
