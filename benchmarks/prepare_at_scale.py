"""Prepare a made corpus and watch the memory of all its processes.

Items with 224 x 224 JPEGs in the authors' Amazon layout, by default a tenth of full size: that is ``--items 60000
--users 100000``. BERT-base and CLIP ViT-B/32 of random weights have fewer blocks, which changes the time of the
encoders and their size: their output has full width. Memory is what cannot be dropped (anonymous and shared), summed
over the processes, every quarter of a second; pages of mapped files are counted apart. The last line is one JSON
object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from parts.encoders import save_image_encoder, save_text_encoder
from parts.pictures import write_corpus

CHECKOUT = Path(__file__).resolve().parent.parent
WATCH_SECONDS = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=6_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=1, help="blocks of both encoders")
    parser.add_argument("--folder", type=Path, help="where the files go; default: the temporary folder")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.items, arguments.users = 400, 400
    root = Path(tempfile.mkdtemp(prefix="prepare-", dir=arguments.folder))
    try:
        num_bytes = write_corpus(root / "source", items=arguments.items, users=arguments.users)
        save_image_encoder(root / "clip", arguments.layers)
        save_text_encoder(root / "bert", arguments.layers)
        print(f"{arguments.items} items, {arguments.users} users, {num_bytes / 1e9:.2f} GB of pictures")
        first = watched(root, arguments.layers)
        second = watched(root, arguments.layers)
    finally:
        shutil.rmtree(root)
    print(
        f"first run {first['seconds']:.0f} s, peak {first['peak_bytes'] / 1e9:.2f} GB in {first['processes']} processes"
    )
    print(f"second run {second['seconds']:.0f} s, peak {second['peak_bytes'] / 1e9:.2f} GB")
    sizes = {"items": arguments.items, "users": arguments.users, "layers": arguments.layers, "picture_bytes": num_bytes}
    print(json.dumps({"benchmark": "prepare_at_scale", **sizes, "first": first, "second": second}))
    return 0


def watched(root: Path, layers: int) -> dict[str, object]:
    """Run the command and return its time and the most memory that its processes held at once."""
    settings = [f"features.{kind}.{key}" for kind, name in (("text", "bert"), ("image", "clip"))
                for key in (f"model={root / name}", f"layer={layers}")]  # fmt: skip
    command = [sys.executable, "launch/prepare.py", "--dataset", "scale", "--source", str(root / "source")]
    command += [word for value in settings for word in ("--set", value)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=CHECKOUT, env=os.environ | {"ODMT_HOME": str(root / "home")})
    peak = mapped = processes = 0
    while process.poll() is None:
        held = [memory_of(one) for one in tree(process.pid)]
        peak = max(peak, sum(own for own, _ in held))
        mapped = max(mapped, sum(files for _, files in held))
        processes = max(processes, len(held))
        time.sleep(WATCH_SECONDS)
    if process.returncode:
        raise SystemExit(f"prepare.py ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": peak, "peak_mapped_bytes": mapped, "processes": processes}


def tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of a process that cannot be dropped, and those of mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return 1024 * (kilobytes.get("RssAnon", 0) + kilobytes.get("RssShmem", 0)), 1024 * kilobytes.get("RssFile", 0)


if __name__ == "__main__":
    sys.exit(main())
