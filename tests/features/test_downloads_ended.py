"""Downloads that a signal ends, and how they go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

from conftest import CHECKOUT
from picture_server import DRIPS, RED, SOON, answer, contents, head, png, raw

from odmt.config import PrepareConfig
from odmt.features.downloads import DownloadResult, download_pictures

SCRIPT = """
import json, sys
from pathlib import Path
from odmt.config import PrepareConfig
from odmt.features.downloads import download_pictures

settings = PrepareConfig(download_connections=4, download_retries=4)
download_pictures(Path(sys.argv[1]), json.loads(sys.argv[2]), settings)
"""


def start(folder, urls):
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(urls)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
        env=os.environ | {"PYTHONPATH": path},
        text=True,
    )


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_killed_run_leaves_whole_pictures_only_and_the_next_one_completes_it(shop, tmp_path):
    large = png("red", (1000, 1000)) + bytes(300_000)

    def slowly(handler):
        time.sleep(0.02)
        answer(large)(handler)

    urls = {str(number): [shop.serve(str(number), slowly)] for number in range(60)}
    process = start(tmp_path, urls)
    wait_until(lambda: len(shop.asked) >= 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = contents(tmp_path)
    assert 10 <= len(before) < 60
    assert all(pictures == [large] for pictures in before.values())
    shop.asked.clear()
    assert download_pictures(tmp_path, urls, PrepareConfig()) == DownloadResult(
        60 - len(before), len(before), {}, (60 - len(before)) * len(large)
    )
    assert sorted(shop.asked) == sorted(urls.keys() - before.keys())
    assert contents(tmp_path) == {item: [large] for item in sorted(urls)}
    assert not list(tmp_path.rglob(".*"))


def test_an_interrupted_run_ends_at_once_and_keeps_what_it_has(shop, tmp_path):
    held = threading.Event()
    urls = {
        "a": [shop.serve("red", answer(RED))],
        "gone": [shop.url("gone")],
        "silent": [shop.serve("silent", lambda _: held.wait(600))],
        "waits": [shop.serve("waits", answer(b"", 503, Retry_After=600))],
        "drips": [shop.serve("drips", raw(head(b"Content-Length: 9999"), *[b"x"] * DRIPS, every=0.05))],
    }
    process = start(tmp_path, urls)
    wait_until(lambda: len(shop.asked) == 5)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert time.monotonic() - started < SOON
    assert told.strip().endswith("KeyboardInterrupt")
    held.set()
    assert contents(tmp_path) == {"a": [RED]}
    assert list(json.loads((tmp_path / "failures.json").read_bytes())) == ["gone"]
