"""Is this the study that stands under this name? Its header says; anything else is refused with a diff."""

import platform
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from odmt.errors import SharedFeaturesError, StudyChangedError
from odmt.home import code_version
from odmt.tuning.budget import changed, limits
from odmt.tuning.event_log import EventLog
from odmt.tuning.space import Space, canonical_json
from odmt.tuning.state import LOG_FORMAT, Study

_LIBRARIES = ("odmt", "optuna", "ray", "torch", "numpy")


def open_study(
    log: EventLog,
    name: str,
    space: Space,
    data_digest: str,
    *,
    extend: bool,
    run_digests: Sequence[str] = (),
    warm_start: Sequence[str] = (),
    warm: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> None:
    """Begin a study, or make sure that the one in the log is the one asked for.

    Args:
        log: owned.
        name: of the study.
        space: what is asked for.
        data_digest: of the inputs as they are now.
        run_digests: of what single configurations read, as ``arrays_digest`` gives them; for the header.
        extend: raise the budget where the space asks for more.
        warm_start: names of earlier studies that this one begins with.
        warm: gives their ``warm`` records; called where the study begins.

    Raises:
        StudyChangedError: space, data, warm start or ``--set`` differ; lists how.
        SharedFeaturesError: a trial of this study wrote to shared features, so its numbers mean nothing.
    """
    study = log.study
    if not study.trials and not (study.header and _is_same(study, space, data_digest, warm_start)):
        records = list(warm())  # before the header: an earlier study that is missing leaves no half of a new one
        _begin(log, name, space, data_digest, run_digests, warm_start)  # nothing was tried: nothing can be mixed up
        for record in records:
            log.commit("warm", **record)
        return
    if study.tainted:
        raise SharedFeaturesError(f"study {name!r} cannot go on: {study.tainted}; start another with --study NAME")
    changes = list(differences(study.header["identity"], space.identity()))
    if study.header["data_digest"] != data_digest:
        changes.append(f"prepared data: digest was {study.header['data_digest']}, is {data_digest}")
    if list(warm_start) != study.header.get("warm_start", []):
        shown = [", ".join(names) or "none" for names in (study.header.get("warm_start", []), warm_start)]
        changes.append(f"--warm-start: was {shown[0]}, is {shown[1]}")
    raised = changed(study, space.budget, extend, changes)
    if changes:
        lines = "".join(f"\n  - {change}" for change in changes)
        raise StudyChangedError(f"study {name!r} was made otherwise; use another --study NAME, or undo:{lines}")
    if raised:
        log.commit("extended", **raised)


def _is_same(study: Study, space: Space, data_digest: str, warm_start: Sequence[str]) -> bool:
    header = study.header
    budget = limits(space.budget)
    known = (header["identity"], header["data_digest"], {name: header.get(name) for name in budget})
    if list(warm_start) != header.get("warm_start", []) or len(study.warmed) != len(warm_start):
        return False
    return canonical_json(known) == canonical_json((space.identity(), data_digest, budget))


def _begin(
    log: EventLog,
    name: str,
    space: Space,
    data_digest: str,
    run_digests: Sequence[str],
    warm_start: Sequence[str],
) -> None:
    log.commit(
        "header",
        format=LOG_FORMAT,
        study=name,
        study_id=uuid.uuid4().hex,
        space=space.name,
        space_file=str(space.path),
        dataset=space.base.data.dataset,
        digest=space.digest,
        identity=space.identity(),
        data_digest=data_digest,
        run_digests=list(run_digests),
        **limits(space.budget),
        objectives=[[metric, mode] for metric, mode in space.objectives.items()],
        code=code_version(),
        warm_start=list(warm_start),
        seed=space.sampler.seed,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in _LIBRARIES}},
    )


def differences(was: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """Yield one sentence for every plain value that differs."""
    was, now = _keyed(was), _keyed(now)
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in [*was, *(key for key in now if key not in was)]:
            path = f"{prefix}.{key}" if prefix else str(key)
            if key not in was:
                yield f"{path}: is new: {now[key]}"
            elif key not in now:
                yield f"{path}: is gone, was {was[key]}"
            else:
                yield from differences(was[key], now[key], path)
        if list(was) != list(now) and set(was) == set(now) and prefix == "axes":
            yield f"{prefix}: their order changed, which changes what is proposed"
    elif canonical_json(was) != canonical_json(now):
        yield f"{prefix.removeprefix('config.')}: was {was}, is {now}"


def _keyed(value: Any) -> Any:
    """Turn the list of ``[path, axis]`` pairs into a mapping; leave everything else alone."""
    is_pairs = isinstance(value, list) and value and all(isinstance(item, list) and len(item) == 2 for item in value)
    return {item[0]: item[1] for item in value} if is_pairs and isinstance(value[0][0], str) else value
