"""``launch/prepare.py`` in small, slow steps, each encoded batch told to a file: for kills at random moments.

Called as ``slow_prepare.py LOG ARGUMENT ...``.
"""

import importlib.util
import os
import sys
import time
from pathlib import Path

from odmt.features import image_import

SECONDS = 0.08
_read_picture = image_import._read_picture


def slow_picture(place):
    """Stand in for the reading of a picture, in worker processes too."""
    time.sleep(SECONDS / 16)
    return _read_picture(place)


def slow_down(log):
    """Make every step short and slow; tell finished batches."""
    from odmt.data import lines, parts
    from odmt.features import workers
    from odmt.features.encoding import LocalEncoding

    lines.BLOCK_BYTES = 8192
    image_import.BATCH_ITEMS = 32
    workers.FEW = 10_000  # no processes unless they are asked for
    run, write_part = LocalEncoding.run, parts._write_part

    def told(self, batches):
        for items, features in zip(batches, run(self, batches), strict=True):
            time.sleep(SECONDS)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{'text' if self._is_text else 'image'} {items[0]}\n".encode())
            os.close(descriptor)
            yield features

    def slow_part(*arguments):
        time.sleep(SECONDS)
        write_part(*arguments)

    LocalEncoding.run = told
    parts._write_part = slow_part
    image_import._read_picture = slow_picture


if __name__ == "__main__":
    slow_down(sys.argv[1])
    path = Path(__file__).resolve().parent.parent / "launch" / "prepare.py"
    spec = importlib.util.spec_from_file_location("launch_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.exit(module.main(sys.argv[2:]))
