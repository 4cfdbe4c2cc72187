"""Frozen features: pictures a second through decode, encode and write, and how fast a store is read into arrays.

Part one prepares made 224 x 224 JPEGs with a CLIP ViT-B/32 of random weights (time does not depend on them): decoding
and resizing alone, encoding alone, writing alone, and all three as prepare does them.

Part two loads the same features from our store (shards of arrays, every record's checksum compared) and from an LMDB of
pickled values one by one, as the authors read theirs. Rounds alternate, medians count. A cold round begins with the
file dropped from the page cache. Two plain readings of the same file say what is possible: one that drops what it reads
is the disk's rate, one into a new array that of disk and fresh memory together.

The last line is one JSON object; ``ratio`` is ours against the authors' way, cold.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from parts import feature_stores
from parts.encoders import save_image_encoder
from parts.pictures import picture

LAYERS = 12


def main() -> int:
    arguments = parse()
    root = Path(tempfile.mkdtemp(prefix="features-", dir=arguments.folder))
    try:
        result: dict[str, Any] = {"benchmark": "features", **machine()}
        if not arguments.load_only:
            result["extraction"] = measure_extraction(root / "extraction", arguments)
        result["loading"] = measure_loading(root / "loading", arguments)
        result["ratio"] = result["loading"]["ratio"]["cold"]
    finally:
        shutil.rmtree(root)
    print(json.dumps(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=384, help="pictures of part one")
    parser.add_argument("--layers", type=int, default=LAYERS, help="blocks of the encoder")
    parser.add_argument("--items", type=int, default=6000, help="items of part two")
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; default: the temporary folder")
    parser.add_argument("--load-only", action="store_true", help="part two alone")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.pictures, arguments.layers, arguments.items, arguments.rounds = 12, 1, 60, 1
    return arguments


def machine() -> dict[str, object]:
    import torch
    from parts.accounting import machine as described

    return described(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def measure_extraction(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare made pictures and time each part of the work."""
    from odmt.config import ImageEncoderConfig, PrepareConfig
    from odmt.features.decoding import decoded_batches
    from odmt.features.encoding import Inputs, LocalEncoding
    from odmt.features.extract import fill_store
    from odmt.features.images import IMAGES_FILE, image_digests
    from odmt.features.records import RecordFile
    from odmt.features.store import feature_records
    from odmt.features.workers import usable_cpus

    names = store_pictures(root, arguments.pictures)
    save_image_encoder(root / "encoders" / "clip", arguments.layers)
    config = ImageEncoderConfig(model="./encoders/clip", layer=arguments.layers)
    digests = image_digests(root)
    workers = usable_cpus()
    settings = PrepareConfig(workers=workers)
    batches = [names[start : start + settings.batch_size] for start in range(0, len(names), settings.batch_size)]
    encoding = LocalEncoding(config, Inputs(root, {}, digests), settings)

    def decode(workers: int) -> list[list[np.ndarray]]:
        return list(decoded_batches(root / IMAGES_FILE, digests, batches, 224, workers))

    def write(features: list[list[np.ndarray]]) -> None:
        (root / "written.lmdb").unlink(missing_ok=True)
        with RecordFile(root / "written.lmdb", write=True) as store:
            for items, arrays in zip(batches, features, strict=True):
                records: dict[str, bytes] = {}
                for item, array in zip(items, arrays, strict=True):
                    records |= feature_records(item, digests[item], array)
                store.write(records)

    def whole(number: int) -> float:
        path = root / f"all-{number}.lmdb"
        return fill_store(
            path, {"encoder": {}}, {name: digests[name] for name in names}, lambda: encoding, "pictures", 64
        ).seconds

    pixels = decode(0)
    encoder = encoding._encoders[0]
    features = [encoder.encode(batch, [b""] * len(batch)) for batch in pixels]
    rates = {
        "decode, one process": rate(lambda: decode(0), names, arguments.rounds),
        "encode": rate(lambda: [encoder.encode(batch, [b""] * len(batch)) for batch in pixels], names, 1),
        "write": rate(lambda: write(features), names, arguments.rounds),
        f"all, {workers} decoding processes": len(names) / statistics.median(whole(n) for n in range(arguments.rounds)),
    }
    print(f"{len(names)} pictures of 224 x 224, CLIP ViT-B/32 with {arguments.layers} blocks, {encoding.precision}")
    for what, found in rates.items():
        print(f"  {what:28s} {found:8.1f} pictures/s")
    print("  all: the start of the decoding processes is included, seconds that a large data set does not notice")
    return {"pictures": len(names), "layers": arguments.layers, "pictures_per_second": rates}


def store_pictures(root: Path, count: int) -> list[str]:
    """Draw pictures and keep them in an image store; return their items in the order of keys."""
    from odmt.data.sources.common import Pictures
    from odmt.features.image_import import fill_image_store
    from odmt.features.picture_places import locate

    rng = np.random.default_rng(0)
    names = [f"i{number:06d}" for number in range(count)]
    (root / "images").mkdir(parents=True)
    for name in names:
        (root / "images" / f"{name}.jpg").write_bytes(picture(rng))
    fill_image_store(root, names, locate(Pictures(folder=str(root / "images")), names, {}), "fail")
    return names


def rate(run: Callable[[], object], items: list[str], rounds: int) -> float:
    """Return items a second, the median of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return len(items) / statistics.median(seconds)


def measure_loading(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load both stores, cold and warm, in turn."""
    from odmt.data.interactions import read_catalogue
    from odmt.features.shards import load_features
    from odmt.home import Home

    stores = feature_stores.write_both(root, arguments.items, arguments.tokens, arguments.width)
    home = Home(root)
    catalogue = read_catalogue(home.dataset(feature_stores.DATASET))

    def own() -> Any:
        return load_features(home, feature_stores.DATASET, feature_stores.ENCODER, catalogue)

    def pickled() -> Any:
        return feature_stores.load_pickled(stores.pickled, stores.item_ids, arguments.tokens, arguments.width)

    check_equal(own(), pickled())
    sides: dict[str, Callable[[], Any]] = {
        "disk": lambda: feature_stores.read_plainly(stores.own),
        "array": lambda: feature_stores.read_into_array(stores.own),
        "ours": own,
        "authors": pickled,
    }
    seconds: dict[str, dict[str, list[float]]] = {"cold": {}, "warm": {}}
    for kind in ("cold", "warm"):
        for _ in range(arguments.rounds):
            for side, run in sides.items():
                if kind == "cold":
                    feature_stores.forget(stores.pickled if side == "authors" else stores.own)
                started = time.perf_counter()
                kept = run()
                seconds[kind].setdefault(side, []).append(time.perf_counter() - started)
                del kept
    return told(stores.num_bytes, seconds, arguments)


def told(num_bytes: int, seconds: dict[str, dict[str, list[float]]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the rates and return everything."""
    print(
        f"{arguments.items} items x {arguments.tokens} tokens x {arguments.width}, {num_bytes / 1e9:.2f} GB of float16"
    )
    names = {
        "disk": "the file, read and dropped",
        "array": "the file, into one array",
        "ours": "ours, checksums compared",
        "authors": "authors, one by one",
    }
    ratios, shares = {}, {}
    for kind, sides in seconds.items():
        median = {side: statistics.median(values) for side, values in sides.items()}
        for side, found in median.items():
            print(f"  {kind} {names[side]:26s} {found:7.2f} s {num_bytes / found / 1e6:8.0f} MB/s")
        ratios[kind] = median["authors"] / median["ours"]
        shares[kind] = {side: median[side] / median["ours"] for side in ("disk", "array")}
    print(
        f"ratio {ratios['cold']:.2f}x cold, {ratios['warm']:.2f}x warm; cold, ours has {shares['cold']['disk']:.0%} of "
        f"the disk's rate, and {shares['cold']['array']:.0%} of that of a plain read into memory"
    )
    return {
        "items": arguments.items,
        "tokens": arguments.tokens,
        "width": arguments.width,
        "bytes": num_bytes,
        "seconds": seconds,
        "ratio": ratios,
        "shares_of_plain_reading": shares,
    }


def check_equal(features: Any, pickled: np.ndarray) -> None:
    """Stop if both ways do not give the same numbers."""
    for row in range(0, len(pickled), max(1, len(pickled) // 50)):
        np.testing.assert_array_equal(features.tokens_of(row), pickled[row])


if __name__ == "__main__":
    sys.exit(main())
