"""From the split to training steps: which users, which items to encode, which candidates to score.

Shape letters, used as name suffixes in this file:
    U users of the split, B users of a batch, S = max_seq_len + 1 slots, R rows (inputs whose next item is known),
    M distinct items
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from odmt.data.split import DevelopmentSplit, item_probabilities, training_windows
from odmt.errors import ConfigError
from odmt.model.layout import SequenceLayout
from odmt.model.losses import Candidates
from odmt.model.recommender import Batch
from odmt.training.features import ItemFeatures
from odmt.training.prefetch import prefetched
from odmt.training.seeding import stream_seed, user_order

LossKind = Literal["in-batch", "full", "sampled"]


class CandidateRule(NamedTuple):
    """What every position is scored against.

    Attributes:
        kind: ``in-batch`` (all slots of the batch, less the user's own items), ``full`` (the catalogue), or ``sampled``
            (the next item and uniform draws from the catalogue).
        popularity_power: of the logQ correction of ``in-batch``.
        num_negatives: draws a batch of ``sampled``, with replacement.
        gathered: ``in-batch`` over the batches of all processes.
    """

    kind: LossKind = "in-batch"
    popularity_power: float = 1.0
    num_negatives: int = 100
    gathered: bool = False


class Shard(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    processes: int = 1


class _Columns(NamedTuple):
    """Distinct items of a batch in their order of encoding.

    Attributes:
        item_ids: int64 ``(M,)``.
        unique: int64 ``(M,)``, the same, rising.
        place: int64 ``(M,)``, place in ``item_ids`` of each of ``unique``.
        log_count: float64 ``(M,)``, see Candidates.
    """

    item_ids: np.ndarray
    unique: np.ndarray
    place: np.ndarray
    log_count: np.ndarray

    def places_of(self, items: np.ndarray) -> np.ndarray:
        """Return the columns of items that are all there."""
        places: np.ndarray = self.place[np.searchsorted(self.unique, items)]
        return places


class TrainingBatches:
    """The training windows of all users, in another order every epoch, a group of batches a step."""

    def __init__(
        self,
        split: DevelopmentSplit,
        features: ItemFeatures,
        *,
        batch_size: int,
        seed: int,
        rule: CandidateRule | None = None,
        batches_per_step: int = 1,
        shard: Shard | None = None,
    ) -> None:
        """Build the windows once.

        Args:
            split: whose users.
            features: of its items.
            batch_size: users a batch; a step's users are split evenly, so its batches may be smaller.
            seed: of the order of users and of the negatives.
            rule: candidates.
            batches_per_step: batches that one process averages into a step.
            shard: which of the batches of a step are this process's: every ``processes``-th.

        Raises:
            ConfigError: there are fewer users than batches in a step.
        """
        self.windows_US = training_windows(split)
        self.rule = rule or CandidateRule()
        probabilities = item_probabilities(split, self.rule.popularity_power).astype(np.float32)
        with np.errstate(divide="ignore"):  # items of validation or test only never stand in a batch
            self.log_popularity = np.log(probabilities)
        self.num_items = split.num_items
        self.features = features
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_step = batches_per_step
        self.shard = shard or Shard()
        if len(self.windows_US) < self._parts:
            raise ConfigError(
                "train",
                [
                    f"accumulate_batches x data_parallel: {self._parts} batches a step, but the data set has "
                    f"{len(self.windows_US)} users"
                ],
            )

    @property
    def _parts(self) -> int:
        return self.batches_per_step * self.shard.processes

    def __len__(self) -> int:
        """Steps an epoch."""
        whole, rest = divmod(len(self.windows_US), self.batch_size * self._parts)
        fewest = 2 if self.rule.kind == "in-batch" else 1  # one user alone has no negatives in its batch
        return max(1, whole + (rest >= fewest * self._parts))

    def __call__(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the steps of an epoch; the last one may be smaller, or a little larger by users too few to split."""
        steps = (self._step(users, epoch, number) for number, users in enumerate(self._steps(epoch)))
        device = self.features.device
        if device.type == "cpu":
            return steps
        return prefetched(steps, start=lambda: torch.cuda.set_device(device) if device.index is not None else None)

    def _steps(self, epoch: int) -> list[np.ndarray]:
        order = user_order(self.seed, epoch, len(self.windows_US))
        bounds = np.arange(1, len(self)) * self.batch_size * self._parts
        return np.split(order, bounds)

    def _step(self, users: np.ndarray, epoch: int, number: int) -> list[Batch]:
        parts = [self.windows_US[part] for part in np.array_split(users, self._parts)]
        batches = []
        for index in range(self.batches_per_step):
            together = parts[index * self.shard.processes : (index + 1) * self.shard.processes]
            if not self.rule.gathered:
                together = [together[self.shard.rank]]
            batches.append(self.batch(together, (epoch, number, index * self.shard.processes + self.shard.rank)))
        return batches

    def batch(self, parts_BS: Sequence[np.ndarray], draw: tuple[int, ...] = ()) -> Batch:
        """Make one batch.

        Args:
            parts_BS: item ids, left padded with 0, of every process whose candidates are shared; one if none are.
            draw: names the random stream of the negatives.
        """
        own = self.shard.rank if len(parts_BS) > 1 else 0
        slots_BS = parts_BS[own]
        columns = [self._columns(part, draw) for part in parts_BS]
        offset = sum(len(part.item_ids) for part in columns[:own])
        layout = SequenceLayout.of(torch.from_numpy(slots_BS[:, :-1] != 0))
        user, position = layout.user.numpy(), layout.position.numpy()
        label = columns[own].places_of(slots_BS[user, position + 1]) + offset
        every_id = np.concatenate([part.item_ids for part in columns])
        log_popularity = self.log_popularity[every_id] if self.rule.kind == "in-batch" else np.zeros(len(every_id))
        candidates = Candidates(
            user=self._tensor(user),
            label=self._tensor(label),
            log_popularity=self._tensor(log_popularity.astype(np.float32)),
            log_count=self._tensor(np.concatenate([part.log_count for part in columns])),
            held=self._tensor(held_columns(slots_BS, columns)) if self.rule.kind == "in-batch" else None,
        )
        rows = sum(int((part[:, :-1] != 0).sum()) for part in parts_BS)
        return Batch(
            item_ids=self._tensor(columns[own].item_ids),
            groups=self.features.groups(columns[own].item_ids),
            inputs=self._tensor(columns[own].places_of(slots_BS[user, position])),
            layout=layout._replace(
                user=self._moved(layout.user),
                position=self._moved(layout.position),
                cell=self._moved(layout.cell),
                last=self._moved(layout.last),
            ),
            candidates=candidates,
            gathered=tuple(len(part.item_ids) for part in columns) if self.rule.gathered else None,
            num_rows=rows / len(parts_BS),
        )

    def _columns(self, slots_BS: np.ndarray, draw: tuple[int, ...]) -> _Columns:
        unique, counts = np.unique(slots_BS[slots_BS != 0], return_counts=True)
        if self.rule.kind == "full":
            unique = np.arange(1, self.num_items + 1)
            counts = np.ones(self.num_items, dtype=np.int64)
        if self.rule.kind == "sampled":
            rng = np.random.default_rng(stream_seed(self.seed, "negatives", *draw))
            drawn = rng.integers(1, self.num_items + 1, self.rule.num_negatives)
            unique = np.union1d(unique, drawn)
            counts = np.bincount(np.searchsorted(unique, drawn), minlength=len(unique))
        order = self.features.arranged(unique)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        with np.errstate(divide="ignore"):
            log_count = np.log(counts[order].astype(np.float64))
        return _Columns(unique[order].astype(np.int64), unique, place.astype(np.int64), log_count)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return self._moved(torch.from_numpy(array))

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.features.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.features.device, non_blocking=True)  # unpinned copies wait for the GPU


def held_columns(slots_BS: np.ndarray, columns: Sequence[_Columns]) -> np.ndarray:
    """Mark the columns whose item stands anywhere in a user's row: bool ``(B, M of all)``."""
    held = []
    user, slot = np.nonzero(slots_BS)
    items = slots_BS[user, slot]
    for part in columns:
        marks = np.zeros((len(slots_BS), len(part.item_ids)), dtype=bool)
        near = np.minimum(np.searchsorted(part.unique, items), len(part.unique) - 1)
        there = part.unique[near] == items
        marks[user[there], part.place[near[there]]] = True
        held.append(marks)
    return np.concatenate(held, axis=1)
