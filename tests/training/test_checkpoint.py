import pytest
import torch

from odmt.errors import CheckpointError
from odmt.training.checkpoint import Checkpoint, CheckpointFolder, best_epoch_of, load_weights

CPU = torch.device("cpu")


def checkpoint(epoch):
    history = [{"epoch": n, "seconds": 1.0, "metrics": {"m": float(n)}} for n in range(1, epoch + 1)]
    state = {"optimizer": {"step": torch.tensor(epoch)}}
    return Checkpoint(epoch, {"w": torch.full((2,), float(epoch))}, state, history)


def saved_epochs(folder):
    return [int(name[1:7]) for name in folder.names()]


def test_what_is_saved_is_loaded(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    folder.save(checkpoint(3), best_epoch=3)
    found = folder.load_latest(CPU)
    assert (found.epoch, found.history) == (3, checkpoint(3).history)
    torch.testing.assert_close(found.weights["w"], torch.tensor([3.0, 3.0]))
    assert found.state["optimizer"]["step"] == 3


def test_a_fresh_folder_has_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path / "run").load_latest(CPU) is None


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for epoch in range(1, 6):
        folder.save(checkpoint(epoch), best_epoch=min(epoch, 2))
    assert saved_epochs(folder) == [2, 4, 5]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(1), best_epoch=1)
    newest = folder.save(checkpoint(2), best_epoch=1)
    (newest / "weights.safetensors").write_bytes(b"torn")
    assert folder.load_latest(CPU).epoch == 1


def test_only_damaged_checkpoints_are_an_error_that_names_the_folder(tmp_path):
    folder = CheckpointFolder(tmp_path)
    (folder.save(checkpoint(1), best_epoch=1) / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="none of 1 checkpoints can be read"):
        folder.load_latest(CPU)


def test_a_checkpoint_without_weights_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"weights.safetensors: cannot be read"):
        load_weights(tmp_path)


def test_an_unfinished_checkpoint_is_not_seen_and_swept_by_the_next_attempt(tmp_path):
    leftover = tmp_path / ".partial-a001-e000001-a001-aa"
    leftover.mkdir()
    folder = CheckpointFolder(tmp_path, attempt=2)
    assert folder.names() == []
    folder.save(checkpoint(1), best_epoch=1)
    assert not leftover.exists()


def test_two_attempts_never_share_a_name(tmp_path):
    first = CheckpointFolder(tmp_path, attempt=1).save(checkpoint(1), best_epoch=1)
    second = CheckpointFolder(tmp_path, attempt=2).save(checkpoint(1), best_epoch=1)
    assert first != second
    assert CheckpointFolder(tmp_path).of_epoch(1) == second


@pytest.mark.parametrize(
    ("epoch", "last", "best", "due"),
    [
        (1, False, False, False),
        (2, False, False, True),
        (3, False, False, True),
        (5, True, False, True),
        (7, False, True, True),
    ],
)
def test_a_checkpoint_is_due_by_cadence_rung_last_or_best(tmp_path, epoch, last, best, due):
    folder = CheckpointFolder(tmp_path, every_epochs=2, also_at=frozenset({3}))
    assert folder.is_due(epoch, last=last, best=best) is due


def test_the_first_of_equal_epochs_is_the_best():
    history = [{"epoch": n, "metrics": {"m": value}} for n, value in enumerate([0.1, 0.3, 0.3, 0.2], start=1)]
    assert best_epoch_of(history, "m") == 2
