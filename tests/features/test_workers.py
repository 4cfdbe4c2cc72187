"""Processes that work on items, and what becomes of them when one of them ends."""

import os
import subprocess
import sys

import psutil
import pytest
from processes import surviving

from odmt.errors import DataError
from odmt.features.workers import ordered_map

ENDLESS = """
import time
from odmt.features.workers import ordered_map

def nap(number):
    time.sleep(0.02)
    return number

if __name__ == "__main__":
    for number in ordered_map(nap, range(10**6), 2):
        print(number, flush=True)
"""


@pytest.mark.slow
def test_workers_end_when_the_first_process_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "0\n"
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(children) >= 2
    alive = surviving(children)
    try:
        assert alive == []
    finally:
        for one in alive:
            one.kill()


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_what_to_do():
    with pytest.raises(DataError, match=r"a process that decodes pictures died, .*--set prepare\.workers=1"):
        list(ordered_map(os._exit, [1], 2))
