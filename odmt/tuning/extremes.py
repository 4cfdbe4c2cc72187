"""The largest and the smallest configuration of a space, by their work; models are made without memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from odmt.config import RunConfig
from odmt.errors import ConfigError
from odmt.tuning.axes import Axis
from odmt.tuning.space import Space

_PASSES = 2
Counted = dict[Any, tuple[int, float]]
"""Parameters and work by the shape of a model."""
_DRAWS = ("normal_", "uniform_", "trunc_normal_")


class FeatureShape(NamedTuple):
    """What an encoder gives of an item: tokens at most, and their width."""

    tokens: int
    width: int


class DataShape(NamedTuple):
    """How much data there is.

    Attributes:
        num_items: of the split.
        text: of a configuration's text encoder.
        image: of its image encoder.
    """

    num_items: int
    text: Callable[[RunConfig], FeatureShape]
    image: Callable[[RunConfig], FeatureShape]


@dataclass(frozen=True)
class Extreme:
    """A configuration and what it costs.

    Attributes:
        values: of all axes.
        config: at these values.
        parameters: trainable numbers.
        work: multiplications for one user, about; only to compare configurations.
    """

    values: Mapping[str, Any]
    config: RunConfig
    parameters: int
    work: float

    @property
    def order(self) -> tuple[float, int, int]:
        """What is compared: work, then parameters, then the rows of a batch, which take memory."""
        return self.work, self.parameters, self.config.train.batch_size


def extremes(space: Space, data: DataShape) -> tuple[Extreme, Extreme]:
    """Return the smallest and the largest configuration.

    From the incumbent, each axis in turn is set to the end that makes it smaller (larger), twice; a combination that is
    not possible is passed over. So this is a good guess, the same every time, not a proof.
    """
    counted: Counted = {}
    first = _first(space, data, counted)

    def smallness(one: Extreme) -> tuple[float, ...]:
        return tuple(-part for part in one.order)

    return (
        _furthest(space, first, smallness, data, counted),
        _furthest(space, first, lambda one: one.order, data, counted),
    )


def most_parameters(space: Space, data: DataShape) -> int:
    """Return the trainable numbers of the model that has most of them, found in the same way."""
    counted: Counted = {}
    return _furthest(space, _first(space, data, counted), lambda one: (one.parameters,), data, counted).parameters


def _first(space: Space, data: DataShape, counted: Counted) -> Extreme:
    start = {path: space.incumbent.get(path, axis.probes()[0]) for path, axis in space.axes.items()}
    first = _measured(space, start, data, counted)
    assert first is not None  # the incumbent has been checked
    return first


def _furthest(
    space: Space, best: Extreme, order: Callable[[Extreme], tuple[float, ...]], data: DataShape, counted: Counted
) -> Extreme:
    for _ in range(_PASSES):
        for path, axis in space.axes.items():
            for value in _ends(axis):
                found = _measured(space, {**best.values, path: value}, data, counted)
                if found is not None and order(found) > order(best):
                    best = found
    return best


def _ends(axis: Axis) -> tuple[Any, ...]:
    probes = axis.probes()
    return probes if axis.kind == "choice" else (probes[0], probes[-1])


def _measured(space: Space, values: Mapping[str, Any], data: DataShape, counted: Counted) -> Extreme | None:
    """Return a configuration with its cost; None if these values are not possible together."""
    try:
        config = space.config_for(values)
        key = (config.model, config.fusion, config.sequence, config.data, config.features)
        if key not in counted:
            counted[key] = _count(config, data)
    except (ConfigError, ValueError):
        return None
    return Extreme(values, config, *counted[key])


def _count(config: RunConfig, data: DataShape) -> tuple[int, float]:
    import torch
    from torch.overrides import TorchFunctionMode

    from odmt.experiment.shape import empty_model, id_width

    class WithoutStartValues(TorchFunctionMode):
        """Draws nothing: drawing on the meta device loads torch's compiler, a second and more."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [*args, *(kwargs or {}).values()]
            return given[0] if func.__name__ in _DRAWS else func(*args, **(kwargs or {}))

    text, image = data.text(config), data.image(config)
    with torch.device("meta"), WithoutStartValues():
        model = empty_model(
            config,
            num_items=data.num_items,
            text_dim=text.width,
            image_dim=image.width,
            id_dim=id_width(config, text.width, image.width),
        )
    trainable = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    table = sum(count for name, count in trainable.items() if "id_table" in name)
    items = sum(count for name, count in trainable.items() if name.startswith("item_encoder.")) - table
    parameters = sum(trainable.values())
    reads = {"all": text.tokens + image.tokens + 1, "summaries": 3, "nothing": 1}[model.item_encoder.reads]
    positions = config.data.max_seq_len
    return parameters, float(positions) * (items * reads + (parameters - items - table))
