"""What a trial reserves, and how many run at once."""

from odmt.errors import ConfigError, ServiceError
from odmt.tuning.space import Space


def trial_resources(space: Space, num_cpus: float, num_gpus: float) -> tuple[float, float, int]:
    """Return CPUs and GPUs a trial, and trials at once.

    Args:
        space: says what is wanted.
        num_cpus: of the cluster.
        num_gpus: of the cluster.

    Raises:
        ConfigError: the GPUs a trial reserves are not those that its processes take.
        ServiceError: not even one trial fits.
    """
    wanted, processes = space.resources, space.base.train.data_parallel
    cpus, gpus = wanted.cpus_per_trial, wanted.gpus_per_trial
    if gpus is None:
        gpus = float(processes) if num_gpus else 0.0
    if processes > 1 and gpus and gpus != processes:
        problem = f"gpus_per_trial: {gpus:g}, but train.data_parallel {processes} takes a GPU a process; leave it auto"
        raise ConfigError("resources", [problem])
    if cpus > num_cpus or gpus > num_gpus:
        raise ServiceError(
            f"a trial wants {cpus:g} CPUs and {gpus:g} GPUs, Ray has {num_cpus:g} and {num_gpus:g}; "
            "set resources.cpus_per_trial, resources.gpus_per_trial"
        )
    fitting = int(min(num_cpus / cpus, num_gpus / gpus if gpus else float("inf")))
    return cpus, gpus, max(1, min(fitting, wanted.max_concurrent_trials or fitting))
