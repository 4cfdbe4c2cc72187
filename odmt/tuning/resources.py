"""What a trial reserves, on which nodes, and how many run at once."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from odmt.errors import ConfigError, ServiceError
from odmt.tuning.space import Space
from odmt.tuning.wording import counted

if TYPE_CHECKING:
    from odmt.cluster.nodes import Node

_A_BIT = 0.001
"""Of ``accelerator_type:X``, which every node with such GPUs has 1 of: enough to be placed there."""


def trial_resources(
    space: Space, num_cpus: float, num_gpus: float, nodes: Sequence["Node"] | None = None
) -> tuple[float, float, int]:
    """Return CPUs and GPUs a trial, and trials at once.

    A space that asks for GPUs may be searched where there is none: its trials use the CPU.

    Args:
        space: says what is wanted.
        num_cpus: of the cluster.
        num_gpus: of the cluster.
        nodes: what each node has; None = as if all were one.

    Raises:
        ConfigError: the GPUs a trial reserves are not those that its processes take.
        ServiceError: not even one trial fits.
    """
    wanted, processes = space.resources, space.base.train.data_parallel
    if wanted.accelerator_type is not None:
        _require_accelerator(wanted.accelerator_type, num_gpus, nodes)
    cpus, gpus = wanted.cpus_per_trial, wanted.gpus_per_trial
    if gpus is None:
        gpus = float(processes)
    if not num_gpus:
        gpus = 0.0
    if processes > 1 and gpus and gpus != processes:
        problem = f"gpus_per_trial: {gpus:g}, but train.data_parallel {processes} takes a GPU a process; leave it auto"
        raise ConfigError("resources", [problem])
    if nodes is None:
        fitting = _fitting(num_cpus, num_gpus, cpus, gpus)
        has = f"Ray has {num_cpus:g} and {num_gpus:g}"
    else:
        fitting = slots(nodes, cpus, gpus, wanted.accelerator_type)
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus))
        has = f"Ray has {num_cpus:g} and {num_gpus:g}, its largest node {largest.cpus:g} and {largest.gpus:g}"
    if fitting < 1:
        raise ServiceError(
            f"a trial wants {counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}, {has}; "
            "set resources.cpus_per_trial, resources.gpus_per_trial"
        )
    return cpus, gpus, min(fitting, wanted.max_concurrent_trials or fitting)


def slots(
    nodes: Sequence["Node"], cpus: float, gpus: float, accelerator: str | None = None, aside: Collection[str] = ()
) -> int:
    """Return how many trials fit on the nodes, without those that were put aside; a trial lies on one node."""
    return sum(
        _fitting(node.cpus, node.gpus, cpus, gpus)
        for node in nodes
        if node.host not in aside and (accelerator is None or accelerator in node.accelerators)
    )


def placement(config: dict[str, Any], cpus: float, gpus: float, accelerator: str | None = None) -> Any:
    """Return Tune's request for one trial's resources, on no node that is in its ``avoid``."""
    from ray import tune

    bundle = {"CPU": cpus, "GPU": gpus}
    if accelerator is not None:
        bundle[f"accelerator_type:{accelerator}"] = _A_BIT
    if not config.get("avoid"):
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {"ray.io/node-id": f"!in({','.join(config['avoid'])})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])


def resource_sentences(space: Space, num_gpus: float) -> Iterator[str]:
    """Yield what is to be known about the resources before the search."""
    if space.resources.gpus_per_trial and not num_gpus:
        yield f"no GPU here (resources.gpus_per_trial is {space.resources.gpus_per_trial:g}): trials use the CPU"


def _fitting(has_cpus: float, has_gpus: float, cpus: float, gpus: float) -> int:
    by_cpu = has_cpus / cpus
    # A share of a GPU is never spread over two of them.
    by_gpu = has_gpus / gpus if gpus >= 1 else has_gpus * int(1 / gpus + 1e-9) if gpus else float("inf")
    return int(min(by_cpu, by_gpu) + 1e-9)


def _require_accelerator(wanted: str, num_gpus: float, nodes: Sequence["Node"] | None) -> None:
    types = sorted({name for node in nodes or () for name in node.accelerators})
    if wanted in types:
        return
    has = ", ".join(types) or (f"{num_gpus:g} GPUs of unknown type" if num_gpus else "no GPU")
    raise ServiceError(f"resources.accelerator_type: {wanted} is wanted, and Ray has {has}; name what there is or none")
