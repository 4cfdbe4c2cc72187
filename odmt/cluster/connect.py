"""Where Ray runs: a local one of our own, or the one that RAY_ADDRESS names; never one that happens to be there."""

import gc
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odmt.errors import ConfigError, ServiceError

PLACES = ("auto", "local", "attach")
_REACH_SECONDS = 5
_SMALLEST_STORE = 256 * 2**20
_SPARE_STORE = 128 * 2**20
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "3",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


@dataclass(frozen=True)
class Place:
    """Where the search runs and why.

    Attributes:
        address: what ``ray.init`` is given.
        sentence: for the screen.
    """

    address: str
    sentence: str

    @property
    def is_local(self) -> bool:
        """Say whether Ray is our own and ends with us."""
        return self.address == "local"


def choose_place(where: str) -> Place:
    """Decide where Ray runs, without starting or joining anything.

    Raises:
        ConfigError: an unknown place, or ``attach`` without RAY_ADDRESS.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if where not in PLACES:
        raise ConfigError("--where", [f"expected one of {', '.join(PLACES)}, got {where!r}"])
    if where == "attach" and not address:
        raise ConfigError("--where", ["attach needs RAY_ADDRESS, for example RAY_ADDRESS=10.0.0.1:6379"])
    if where == "local":
        return Place("local", "a local Ray, because --where local was given")
    if address:
        return Place(address, f"the Ray at {address}, because RAY_ADDRESS names it")
    return Place("local", "a local Ray, because RAY_ADDRESS is not set")


def connect(place: Place, *, feature_bytes: int, num_cpus: int | None = None, temp_dir: Path | None = None) -> None:
    """Start or join Ray. Import ``ray.tune`` only after this: it reads the environment that this sets.

    Args:
        place: from ``choose_place``.
        feature_bytes: what the object store must hold.
        num_cpus: of a local Ray; None = all of the machine's.
        temp_dir: of a local Ray; None = Ray's own.

    Raises:
        ServiceError: Ray does not answer, or the features do not fit into shared memory.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if place.is_local:
        # Ray 2.60 writes ~/.ray/auth_token and asks for it wherever nobody says otherwise.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        options |= {"include_dashboard": bool(os.environ.get("ODMT_RAY_DASHBOARD")), "num_cpus": num_cpus}
        options["object_store_memory"] = store_bytes(feature_bytes)
        if temp_dir is not None:
            options["_temp_dir"] = str(temp_dir)
    else:
        check_reachable(place)
        options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in _ENVIRONMENT}}
    import ray

    try:
        with _own_handlers():
            ray.init(address=place.address, **options)
    except Exception as error:  # Ray raises half a dozen kinds here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ServiceError(f"Ray at {place.address} does not answer: {reason}") from error
    if not place.is_local:
        _check_store(feature_bytes)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep what SIGTERM does: ``ray.init`` puts its own in that place, which leaves without a word of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as leaving:  # Ray's own handler, for a signal while Ray starts
        if leaving.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """Leave Ray; a local one ends.

    Garbage is collected before and not meanwhile: a reference to an object of Ray's that is found by another thread's
    collection while Ray shuts down makes Ray end the whole process, at once and without a word (exit code 1).
    """
    import ray

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def store_bytes(feature_bytes: int) -> int:
    """Return the size of a local object store that holds the features.

    Raises:
        ServiceError: shared memory is too small.
    """
    needed = max(_SMALLEST_STORE, int(feature_bytes * 1.1) + _SPARE_STORE)
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared if shared.is_dir() else "/tmp").free
    if needed > free:
        raise ServiceError(
            f"the features need an object store of {needed / 2**30:.1f} GB and {shared} has {free / 2**30:.1f} GB "
            f"free; free some, enlarge it (mount -o remount,size=... {shared}), or use smaller encoders"
        )
    return needed


def num_gpus() -> int:
    """Return the GPUs of the cluster that we are connected to."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def num_cpus() -> float:
    """Return the CPUs of the cluster that we are connected to."""
    import ray

    return float(ray.cluster_resources().get("CPU", 0))


def check_reachable(place: Place) -> None:
    """Ask the port of a Ray that is to be joined: Ray itself tries for half a minute.

    Raises:
        ServiceError: nobody answers there.
    """
    if place.is_local:
        return
    address = place.address
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ServiceError(
            f"Ray at {address} does not answer: {error}; start it, or unset RAY_ADDRESS to run on this machine"
        ) from error


def _check_store(feature_bytes: int) -> None:
    import ray

    held = ray.cluster_resources().get("object_store_memory", 0)
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if nodes and feature_bytes > held / nodes:
        raise ServiceError(
            f"the features need {feature_bytes / 2**30:.1f} GB on each node and its object store holds "
            f"{held / nodes / 2**30:.1f} GB; start Ray with a larger --object-store-memory"
        )
