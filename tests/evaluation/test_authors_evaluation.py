"""The evaluation that benchmarks compare with equals the authors' recorded one; and so do our blocks on its states."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import GOLDEN, group, load
from parts import authors_evaluation as authors

from odmt.data.split import Targets
from odmt.evaluation.blocks import ItemBlocks
from odmt.evaluation.ranking import rank_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=sorted(GOLDEN.glob("eval_*.npz")), ids=lambda path: path.stem)
def case(request):
    meta, arrays = load(request.param.stem)
    table = {branch: torch.from_numpy(arrays[f"item_emb_{branch}"]) for branch in authors.BRANCHES}
    return meta, table, authors.encoders_of(group(arrays, "state/"), num_heads=2)


def histories_of(split):
    return [torch.tensor(history) for history in split["history"]]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ranks_hits_and_ndcg_are_the_recorded_ones(case, split):
    meta, table, encoders = case
    recorded = meta["splits"][split]
    results = authors.evaluate(
        encoders, table, histories_of(recorded), recorded["target"], meta["max_seq_len"], batch_size=7
    )
    assert set(results) == set(authors.HEADS)
    for head, found in results.items():
        expected = recorded[f"metrics_{head}"]
        ranks = np.where(recorded["target_in_history"], 0, found.ranks)
        assert [rank or None for rank in ranks.tolist()] == expected["rank"]
        assert found.hit.mean() == pytest.approx(expected["mean_hit10"], abs=1e-6)
        assert found.ndcg.mean() == pytest.approx(expected["mean_ndcg10"], abs=1e-6)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("block_bytes", [512, None])
def test_blocks_give_the_recorded_ranks(case, split, block_bytes):
    meta, table, encoders = case
    recorded = meta["splits"][split]
    lengths = [len(history) for history in recorded["history"]]
    history = np.concatenate(recorded["history"])
    targets = Targets(np.cumsum([0, *lengths]), history, np.array(recorded["target"]))
    blocks = ItemBlocks([table[branch] for branch in authors.BRANCHES], block_bytes, tile=4)

    def rank(users):
        real = users.inputs != 0
        states = [encoders[branch](table[branch][users.inputs], real)[:, -1] for branch in authors.BRANCHES]
        return blocks.ranks(states, users, rank_repeat_targets=False)

    device = torch.device("cpu")
    ranks = rank_all(rank, authors.HEADS, targets, meta["max_seq_len"], batch_size=5, device=device)
    for head, found in ranks.items():
        assert [rank or None for rank in found.tolist()] == recorded[f"metrics_{head}"]["rank"]


WITHOUT_HEAVY_LIBRARIES = """
import runpy, sys
for name in ("yaml", "ray", "pyarrow", "mlflow", "optuna", "lmdb", "transformers", "safetensors", "scipy", "PIL"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_benchmark_runs_with_torch_and_numpy_alone():
    script = ROOT / "benchmarks" / "evaluate.py"
    command = [sys.executable, "-c", WITHOUT_HEAVY_LIBRARIES, script, "--smoke", "--device", "cpu", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "evaluate"
    assert result["ratio"] > 0
