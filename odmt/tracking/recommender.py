"""Histories in, ranked items out: what a registered model does, without a word of MLflow.

A package is a folder::

    weights.safetensors       the checkpoint's weights
    config.yaml               the trial's resolved configuration
    items.parquet             item_id, title; row i = compact id i + 1
    item_vectors.safetensors  the items' vectors by branch, so that serving needs no features

Shape letters, used as name suffixes in this file:
    B users, N items (column j = compact id j + 1)
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from odmt.config import RunConfig, from_mapping, read_yaml
from odmt.data.split import left_padded
from odmt.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from odmt.evaluation.evaluator import score_users
from odmt.evaluation.ranking import UserBatch
from odmt.experiment.shape import empty_model
from odmt.model.recommender import SequentialRecommender

WEIGHTS, CONFIG, ITEMS, VECTORS = "weights.safetensors", "config.yaml", "items.parquet", "item_vectors.safetensors"
PACKAGE_FILES = (WEIGHTS, CONFIG, ITEMS, VECTORS)


class Recommendation(NamedTuple):
    """One place of a ranked list."""

    rank: int
    item_id: str
    title: str
    score: float


class Recommender:
    """A model with its items' vectors and names."""

    def __init__(
        self,
        model: SequentialRecommender,
        table: Sequence[Tensor],
        item_ids: Sequence[str],
        titles: Sequence[str],
        max_seq_len: int,
    ) -> None:
        """Keep the parts; ``table`` is ``(N + 1, D)`` a branch of the model, row 0 = padding."""
        self.model = model.eval()
        self.table = table
        self.item_ids = list(item_ids)
        self.titles = list(titles)
        self.max_seq_len = max_seq_len
        self._compact = {item: number for number, item in enumerate(self.item_ids, start=1)}

    def recommend(self, histories: Sequence[Sequence[str]], top_k: int = 10) -> list[list[Recommendation]]:
        """Rank the items that each history does not hold.

        Args:
            histories: external item ids, the most recent last; only the last ``max_seq_len`` of each are read, all are
                left out of the answer.
            top_k: places of each list; fewer come back where fewer items are left.

        Raises:
            DataError: an empty history, an unknown item, or ``top_k`` below 1; names each of them.
            NonFiniteError: a score is NaN or infinite.
        """
        if top_k < 1:
            raise DataError(f"top_k: {top_k} is below 1")
        if not len(histories):
            return []
        users = self._users(self._compact_ids(histories))
        scores_BN = score_users(self.model, self.table, users)["fused"]
        if not torch.isfinite(scores_BN).all():
            raise NonFiniteError("a score is NaN or infinite; the model cannot rank")
        scores_BN[users.history_user, users.history_item - 1] = -torch.inf
        ranked, order = scores_BN.sort(dim=1, descending=True, stable=True)
        return [
            self._ranked(row.tolist(), columns.tolist())
            for row, columns in zip(ranked[:, :top_k], order[:, :top_k], strict=True)
        ]

    def _ranked(self, scores: list[float], columns: list[int]) -> list[Recommendation]:
        return [
            Recommendation(rank, self.item_ids[column], self.titles[column], score)
            for rank, (score, column) in enumerate(zip(scores, columns, strict=True), start=1)
            if score > -torch.inf
        ]

    def _compact_ids(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        problems: list[str] = []
        for number, history in enumerate(histories, start=1):
            if not len(history):
                problems.append(f"history {number} is empty; give at least one item id")
            for item in history:
                if item not in self._compact:
                    problems.append(f"history {number}: unknown item {item!r}{self._hint(item)}")
        if problems:
            raise DataError("; ".join(problems))
        return [[self._compact[item] for item in history] for history in histories]

    def _hint(self, item: str) -> str:
        near = difflib.get_close_matches(item, self.item_ids, n=3, cutoff=0.5) or self.item_ids[:3]
        return f"; known are for instance {', '.join(near)}"

    def _users(self, histories: list[list[int]]) -> UserBatch:
        lengths = [len(history) for history in histories]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.array([item for history in histories for item in history], dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        inputs = left_padded(offsets, items, self.max_seq_len)
        parts = (inputs, rows, items, np.zeros(len(lengths), dtype=np.int64))
        return UserBatch(*(torch.from_numpy(part) for part in parts))


def write_package(
    folder: Path,
    *,
    checkpoint: Path,
    config: Mapping[str, object],
    table: Mapping[str, Tensor],
    item_ids: Sequence[str],
    titles: Sequence[str],
) -> dict[str, str]:
    """Write the four files of a package.

    Args:
        folder: exists, empty.
        checkpoint: folder with ``weights.safetensors``.
        config: the resolved configuration as nested plain values.
        table: by branch ``(N + 1, D)``.
        item_ids: external ids, N.
        titles: N.

    Returns:
        File name to path, as MLflow's ``artifacts`` wants it.

    Raises:
        CheckpointError: the checkpoint holds no weights.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml
    from safetensors.torch import save_file

    weights = checkpoint / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{weights}: is missing; run the study again or promote another trial with --trial")
    (folder / WEIGHTS).symlink_to(weights.resolve())
    (folder / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    pq.write_table(pa.table({"item_id": list(item_ids), "title": list(titles)}), folder / ITEMS)
    save_file({name: _plain(view) for name, view in table.items()}, folder / VECTORS)
    return {name: str((folder / name).resolve()) for name in PACKAGE_FILES}


def read_package(paths: Mapping[str, str]) -> Recommender:
    """Load a package from its files' paths.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
    """
    import pyarrow.parquet as pq
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = from_mapping(RunConfig, read_yaml(Path(paths[CONFIG])), paths[CONFIG])
        weights = load_file(paths[WEIGHTS])
        model = _empty_model(config, weights)
        model.load_state_dict(weights)
        vectors = load_file(paths[VECTORS])
        table = [vectors[name] for name in model.branches]
        items = pq.read_table(paths[ITEMS]).to_pydict()
    except (KeyError, OSError, RuntimeError, SafetensorError, ConfigError, ValueError) as error:
        raise CheckpointError(
            f"the registered model cannot be loaded: {error}; its files are damaged or made by an older version: "
            "promote it again, or search again and promote that"
        ) from error
    id_table = model.item_encoder.id_table
    if {len(part) for part in table} != {len(items["item_id"]) + 1} or (
        id_table is not None and id_table.num_embeddings != len(table[0])
    ):
        raise CheckpointError("the registered model's items do not fit its weights; promote it again")
    return Recommender(model, table, items["item_id"], items["title"], config.data.max_seq_len)


def _empty_model(config: RunConfig, weights: Mapping[str, Tensor]) -> SequentialRecommender:
    """Make a model of the right shapes without features: widths are read off the weights, 0 where there are none."""

    def shape(*names: str) -> tuple[int, int]:
        for name in names:
            if (found := weights.get(f"item_encoder.{name}.weight")) is not None:
                return found.shape[0], found.shape[1]
        return 1, 0

    num_rows, id_dim = shape("id_table")
    return empty_model(
        config,
        num_items=num_rows - 1,
        text_dim=shape("text_projection", "projection")[1],
        image_dim=shape("image_projection", "projection")[1],
        id_dim=id_dim,
    )


def _plain(view: Tensor) -> Tensor:
    return view.detach().cpu().contiguous()
