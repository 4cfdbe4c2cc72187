"""SIGKILL at random moments of a preparation: nothing is lost but the batch in hand, and no value differs."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest
from conftest import CHECKOUT
from corpora import make_corpus, write_amazon_2018
from processes import surviving

from odmt.features.records import RecordFile

KILLS = 6


def command(home, log, source, *settings):
    arguments = ["--dataset", "arts2", "--source", source, "--tiny-encoders"]
    arguments += [word for setting in ("prepare.batch_size=16", *settings) for word in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, CHECKOUT / "tests" / "slow_prepare.py", log, *map(str, arguments)],
        env=os.environ | {"ODMT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finished(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()
    return output.decode()


def content(home):
    """Every file of values: tables as bytes, stores record by record without their manifests."""
    found = {}
    for path in sorted(home.rglob("*.parquet")):
        found[str(path.relative_to(home))] = path.read_bytes()
    for path in sorted(home.rglob("*.lmdb")):
        with RecordFile(path) as store, store.view() as view:
            records = {key: bytes(value) for key, value in view.scan("") if key != "\0manifest"}
        found[str(path.relative_to(home))] = records
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((), id="alone", marks=pytest.mark.long),
        pytest.param(("prepare.workers=2",), id="two workers"),
    ],
)
def test_kills_at_random_moments_lose_a_batch_each_at_most_leave_no_process_and_change_no_value(settings, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", num_users=250, num_items=200)
    source = write_amazon_2018(tmp_path / "source", corpus)
    started = time.monotonic()
    finished(command(tmp_path / "whole", tmp_path / "whole.log", source, *settings))
    seconds = time.monotonic() - started

    seed = random.randrange(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}, {KILLS} kills within {seconds:.1f} s of each start")
    log = tmp_path / "killed.log"
    for _ in range(KILLS):
        process = command(tmp_path / "killed", log, source, *settings)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            assert surviving(children) == []
        process.communicate()
    assert "arts2" in finished(command(tmp_path / "killed", log, source, *settings))

    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    encoded = Counter(log.read_text().splitlines())
    assert set(encoded) == set((tmp_path / "whole.log").read_text().splitlines())
    assert sum(encoded.values()) - len(encoded) <= KILLS, encoded
    assert [path for path in (tmp_path / "killed").rglob("*-[a-z0-9_]*") if path.name.startswith(".")] == []
    assert not (tmp_path / "killed" / "data" / "arts2" / "imported" / "parts").exists()
