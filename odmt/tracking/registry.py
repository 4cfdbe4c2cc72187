"""The model registry: a trial becomes a version of ``odmt-<dataset>``, and the alias ``champion`` moves to it.

The alias moves last: after the files are there, and after the registered version has been loaded and has answered.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from odmt.errors import CheckpointError, OdmtError
from odmt.home import Home
from odmt.tracking.connection import client_uri, connect, unreachable
from odmt.tracking.redaction import redacted

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient
    from torch import Tensor

CHAMPION, PREVIOUS = "champion", "previous"
PIP_PACKAGES = ("mlflow", "torch", "numpy", "pyarrow", "pyyaml", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial that is to be registered."""

    dataset: str
    checkpoint: Path
    config: Mapping[str, Any]
    """The resolved configuration as nested plain values."""

    make_table: "Callable[[], Mapping[str, Tensor]]"
    """Makes the items' vectors by branch, ``(N + 1, D)`` each; called only where a new version is made."""

    item_ids: Sequence[str]
    titles: Sequence[str]
    run_id: str
    study: str
    study_id: str
    trial_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Registered(NamedTuple):
    """A version of a registered model.

    Attributes:
        name: ``odmt-<dataset>``.
        version: counted from 1.
        reused: this trial's checkpoint was registered before; no new version was made.
        former: the version that was champion before, where it is another one.
    """

    name: str
    version: str
    reused: bool
    former: str | None


def model_name(dataset: str) -> str:
    """Return the registered model's name of a data set."""
    return f"odmt-{dataset}"


def register_champion(home: Home, candidate: Candidate) -> Registered:
    """Register a trial's checkpoint and move the alias ``champion`` to it; the former one becomes ``previous``.

    Raises:
        CheckpointError: weights are missing, or the registered files are not complete.
        ServiceError: MLflow cannot be reached.
    """
    client = connect(home)
    name = model_name(candidate.dataset)
    identity = _identity(candidate.study_id, candidate.trial_id, candidate.checkpoint.name)
    try:
        version = _same(client, name, identity)
        reused = version is not None
        if version is None:
            version = _register(client, home, name, candidate, identity)
        _check(client, home, name, version, candidate.item_ids[0])
        return Registered(name, str(version.version), reused, make_champion(client, name, str(version.version)))
    except OdmtError:
        raise
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException | OSError):
            raise unreachable(home.tracking_uri, error) from error
        raise


def make_champion(client: "MlflowClient", name: str, version: str) -> str | None:
    """Move the aliases; the former champion becomes ``previous``.

    Returns:
        The former champion's version, where it is another one.
    """
    former = dict(client.get_registered_model(name).aliases).get(CHAMPION)
    if former is not None and str(former) == version:
        return None
    if former is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(former))
    client.set_registered_model_alias(name, CHAMPION, version)
    return None if former is None else str(former)


def load_champion(home: Home, name: str, alias: str = CHAMPION) -> Any:
    """Load a registered model as a pyfunc.

    Args:
        home: where the registry is.
        name: a data set (``demo``), a registered model (``odmt-demo``), or a ``models:/`` URI.
        alias: which version, where the name does not say.

    Raises:
        CheckpointError: there is no such model, or its files are not complete.
        ServiceError: MLflow cannot be reached.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    client = connect(home)
    uri = name if name.startswith("models:/") else f"models:/{_known(client, name)}@{alias}"
    try:
        with _fluent(client_uri(home)):
            return mlflow.pyfunc.load_model(uri, suppress_warnings=True)
    except MlflowException as error:
        if error.get_http_status_code() in (400, 404):
            if (version := _version_of(client, uri)) and (folder := _lost_files(client, version)):
                raise CheckpointError(
                    f"{uri}: its files are gone from {folder}; python launch/promote.py STUDY registers the trial anew"
                ) from error
            raise CheckpointError(
                f"{uri}: {redacted(error.message)}; python launch/promote.py STUDY makes a champion"
            ) from error
        raise unreachable(home.tracking_uri, error) from error


def _known(client: "MlflowClient", name: str) -> str:
    names = [model.name for model in client.search_registered_models()]
    for wanted in (name, model_name(name)):
        if wanted in names:
            return wanted
    there = f"registered are {', '.join(sorted(names))}" if names else "none is registered yet"
    raise CheckpointError(f"no registered model {name!r}; {there}; python launch/promote.py STUDY registers one")


def _identity(study_id: str, trial_id: str, checkpoint: str) -> dict[str, str]:
    return {"odmt.study_id": study_id, "odmt.trial": trial_id, "odmt.checkpoint": checkpoint}


def _same(client: "MlflowClient", name: str, identity: Mapping[str, str]) -> "ModelVersion | None":
    """Find the version of an identity; one whose files are gone does not count."""
    for version in client.search_model_versions(f"name = '{name}'"):
        if identity.items() <= version.tags.items() and _lost_files(client, version) is None:
            return version
    return None


def _lost_files(client: "MlflowClient", version: "ModelVersion") -> str | None:
    """Return the folder where a version's files should be and are not; None where all are there."""
    from mlflow.exceptions import MlflowException

    from odmt.tracking.recommender import PACKAGE_FILES

    model_id = str(version.source).removeprefix("models:/")  # version.model_id is None for what a search found
    try:
        folder = str(client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return str(version.source)
        raise
    listed = [item for part in (None, "artifacts") for item in client.list_logged_model_artifacts(model_id, part)]
    wanted = {"MLmodel", *(f"artifacts/{name}" for name in PACKAGE_FILES)}
    return folder.removeprefix("file://") if wanted - {item.path for item in listed} else None


def _version_of(client: "MlflowClient", uri: str) -> "ModelVersion | None":
    """Return what ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` means; None where there is none."""
    from mlflow.exceptions import MlflowException

    name, alias_mark, alias = uri.removeprefix("models:/").rpartition("@")
    try:
        if alias_mark:
            return client.get_model_version_by_alias(name, alias)
        name, _, number = uri.removeprefix("models:/").rpartition("/")
        return client.get_model_version(name, number)
    except MlflowException:
        return None


def _register(
    client: "MlflowClient", home: Home, name: str, candidate: Candidate, identity: Mapping[str, str]
) -> "ModelVersion":
    import mlflow
    import mlflow.pyfunc
    from mlflow.models import Model

    import odmt
    from odmt.tracking.recommender import PACKAGE_FILES, write_package

    with tempfile.TemporaryDirectory(prefix="odmt-promote-") as scratch, _fluent(client_uri(home)):
        artifacts = write_package(
            Path(scratch),
            checkpoint=candidate.checkpoint,
            config=candidate.config,
            table=candidate.make_table(),
            item_ids=candidate.item_ids,
            titles=candidate.titles,
        )
        # Made here: Model.log by itself would put it into MLflow's default experiment, below the working folder.
        made = client.create_logged_model(
            client.get_run(candidate.run_id).info.experiment_id, name=name, source_run_id=candidate.run_id
        )
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=candidate.run_id,
            model_id=made.model_id,
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts=artifacts,
            code_paths=[str(Path(odmt.__file__).parent)],
            input_example=([[candidate.item_ids[0]]], {"top_k": 10}),
            pip_requirements=_requirements(),
        )
        there = {Path(item.path).name for item in client.list_logged_model_artifacts(info.model_id, "artifacts")}
        if missing := set(PACKAGE_FILES) - there:
            raise CheckpointError(f"{', '.join(sorted(missing))} did not reach MLflow; {name} stays as it is")
        tags = {**candidate.tags, **identity, "odmt.study": candidate.study}
        with contextlib.redirect_stderr(io.StringIO()):  # it prints two lines of its own
            return mlflow.register_model(info.model_uri, name, tags=tags)


def _check(client: "MlflowClient", home: Home, name: str, version: "ModelVersion", item_id: str) -> None:
    """Load the registered version as anybody would and ask it once."""
    import mlflow.pyfunc

    with _fluent(client_uri(home)):
        model = mlflow.pyfunc.load_model(f"models:/{name}/{version.version}", suppress_warnings=True)
    if not model.predict([[item_id]], params={"top_k": 1})[0]:
        raise CheckpointError(f"{name} version {version.version} recommends nothing; the alias stays where it is")


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in PIP_PACKAGES]


@contextlib.contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """Point MLflow's module-level functions at a server, and put the environment back: they write into it."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(before)
