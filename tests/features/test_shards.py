import dataclasses
import tracemalloc

import numpy as np
import pytest
from small_store import catalogue_of, write_store

from odmt.config import TextEncoderConfig
from odmt.data.interactions import Interactions, write_dataset
from odmt.errors import FeatureStoreError, MissingDataError
from odmt.features import shards as reading
from odmt.features.images import DIGEST_BYTES
from odmt.features.ragged import RaggedFeatures
from odmt.features.records import RecordFile, View
from odmt.features.shards import LoadedShard, load_features, load_shard, plan_shards
from odmt.features.store import HEADER_BYTES
from odmt.home import Home

HUB = TextEncoderConfig(model="some/hub-model", layer=-1)
CATALOGUE = catalogue_of(["e", "b", "d", "a", "c"])
LENGTHS = [1, 2, 3, 2, 1]
ARRAYS = [np.full((length, 4), row, dtype=np.float16) for row, length in enumerate(LENGTHS)]
ITEM_BYTES = 3 * 4 * 2
"""What the manifest allows an item: three tokens of width 4."""


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def path(home):
    return write_store(home, "arts", HUB, CATALOGUE, ARRAYS)


def plans(home, rows=range(5), **options):
    return plan_shards(home, "arts", HUB, CATALOGUE, np.array(rows), **options)


@pytest.mark.parametrize(
    ("shard_bytes", "runs"),
    [
        (5 * ITEM_BYTES, ["abcde"]),
        (5 * ITEM_BYTES - 1, ["abc", "de"]),
        (3 * ITEM_BYTES, ["abc", "de"]),
        (2 * ITEM_BYTES, ["ab", "cd", "e"]),
        (ITEM_BYTES, list("abcde")),
        (1, list("abcde")),
    ],
)
def test_runs_follow_the_keys_and_hold_as_many_items_as_are_sure_to_fit(home, path, shard_bytes, runs):
    found = plans(home, shard_bytes=shard_bytes)
    assert ["".join(plan.item_ids) for plan in found] == runs
    assert ["".join(CATALOGUE.item_ids[row] for row in plan.rows) for plan in found] == runs
    assert {(plan.path, plan.num_rows) for plan in found} == {(path, 5)}
    assert all(load_shard(plan).features.tokens.nbytes <= max(shard_bytes, ITEM_BYTES) for plan in found)


def test_runs_hold_the_needed_rows_alone_and_each_once(home, path):
    found = plans(home, rows=[4, 0, 1, 4], shard_bytes=2 * ITEM_BYTES)  # c, e, b
    assert ["".join(plan.item_ids) for plan in found] == ["bc", "e"]


def test_without_needed_rows_those_of_the_interactions_are_needed(home, path):
    sequence = Interactions(["u"], np.array([0, 3]), np.array([2, 0, 2], dtype=np.int32))
    write_dataset(home.dataset("arts"), sequence, CATALOGUE)
    assert [plan.item_ids for plan in plan_shards(home, "arts", HUB, CATALOGUE)] == [["d", "e"]]


def test_a_data_set_that_needs_nothing_has_one_empty_shard(home, path):
    (plan,) = plans(home, rows=np.zeros(0, dtype=int))
    assert load_shard(plan).features.tokens.shape == (0, 4)


def test_the_default_is_a_quarter_of_a_gibibyte(home, path, monkeypatch):
    assert reading.SHARD_BYTES == 2**28
    monkeypatch.setattr(reading, "SHARD_BYTES", 2 * ITEM_BYTES)
    assert len(plans(home)) == 3


def test_runs_follow_the_file_for_ids_of_all_alphabets(home):
    ids = ["zebra", "\U0001d11e", "Ärger", "éclair", "日本", "a", "\uffee", "Z", "10", "9"]
    catalogue = catalogue_of(ids)
    path = write_store(home, "arts", HUB, catalogue, [np.full((1, 4), n, dtype=np.float16) for n in range(len(ids))])
    found = plan_shards(home, "arts", HUB, catalogue, np.arange(len(ids)), shard_bytes=4 * 8)
    order = [item for plan in found for item in plan.item_ids]
    with RecordFile(path) as store, store.view() as view:
        assert order == [key for key, _ in view.scan("") if not key.startswith("\0")]
    assert order == ["10", "9", "Z", "a", "zebra", "Ärger", "éclair", "日本", "\uffee", "\U0001d11e"]
    features = load_features(home, "arts", HUB, catalogue, np.arange(len(ids)))
    assert [features.tokens_of(row).tolist() for row in range(len(ids))] == [[[n] * 4] for n in range(len(ids))]


def test_a_plan_reads_no_features(home, path, monkeypatch):
    monkeypatch.setattr(View, "get", lambda self, key: pytest.fail(f"{key} was read"))
    assert len(plans(home)) == 1


def test_a_shard_holds_its_rows_and_their_checksums(home, path):
    (_, plan, _) = plans(home, shard_bytes=2 * ITEM_BYTES)  # c and d: rows 4 and 2
    shard, checksums = load_shard(plan)
    assert shard.rows.tolist() == [4, 2]
    assert shard.offsets.tolist() == [0, 1, 4]
    assert shard.tokens.tolist() == [[4] * 4, [2] * 4, [2] * 4, [2] * 4]
    assert (shard.tokens.dtype, shard.offsets.dtype, shard.rows.dtype) == (np.float16, np.int64, np.int32)
    assert checksums.dtype == np.uint32
    assert checksums.tolist() == [plain_crc32(shard.tokens[:1].tobytes()), plain_crc32(shard.tokens[1:].tobytes())]


def plain_crc32(content):
    """Bit by bit, with the reversed polynomial of ISO 3309."""
    rest = 0xFFFFFFFF
    for byte in content:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0xEDB88320 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


@pytest.mark.parametrize("shard_bytes", [1, 2 * ITEM_BYTES, 2**20])
def test_all_shards_together_are_the_features_of_the_catalogue(home, path, monkeypatch, shard_bytes):
    monkeypatch.setattr(reading, "SHARD_BYTES", shard_bytes)
    features = load_features(home, "arts", HUB, CATALOGUE, np.array([0, 2, 3]))  # "b" and "c" are not needed
    assert len(features.shards) == len(plans(home, rows=[0, 2, 3]))
    assert features.lengths.tolist() == [1, 0, 3, 2, 0]
    for row in (0, 2, 3):
        np.testing.assert_array_equal(features.tokens_of(row), ARRAYS[row])


def test_each_record_is_looked_up_and_summed_once(home, path, monkeypatch):
    looked_up, summed = [], []
    get, crc32 = View.get, reading.crc32
    monkeypatch.setattr(View, "get", lambda self, key: looked_up.append(key) or get(self, key))
    monkeypatch.setattr(reading, "crc32", lambda content: summed.append(content.nbytes) or crc32(content))
    load_features(home, "arts", HUB, CATALOGUE, np.arange(5))
    assert looked_up == list("abcde")
    assert summed == [8 * LENGTHS[CATALOGUE.item_ids.index(item)] for item in "abcde"]


def test_loading_a_shard_takes_little_more_memory_than_its_tokens(home):
    catalogue = catalogue_of(map(str, range(64)))
    write_store(home, "arts", HUB, catalogue, [np.ones((50, 256), dtype=np.float16)] * 64)
    (plan,) = plan_shards(home, "arts", HUB, catalogue, np.arange(64))
    load_shard(plan)
    tracemalloc.start()
    try:
        loaded = load_shard(plan)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loaded.features.tokens.nbytes == 64 * 50 * 256 * 2
    assert peak < 1.1 * loaded.features.tokens.nbytes


def changed(path, item, change):
    """Let a record become what ``change`` makes of it; None = it goes."""
    with RecordFile(path, write=True) as store:
        with store.view() as view:
            record = change(bytearray(view.get(item)))
        if record is None:
            store.write({}, delete=[item])
        else:
            store.write({item: bytes(record)})


def flipped(position):
    def flip(record):
        record[position] ^= 1
        return record

    return flip


def of_tokens(count):
    """A record whose checksum is right: another encoder's, or a broken writer's."""
    payload = np.ones((count, 4), dtype=np.float16).tobytes()
    crc = plain_crc32(payload).to_bytes(HEADER_BYTES - DIGEST_BYTES, "little")
    return lambda record: record[:DIGEST_BYTES] + crc + payload


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_tokens(0), "features of item 'd' are damaged; delete the file"),
        (of_tokens(4), "features of item 'd' are damaged; delete the file"),
        (lambda record: None, "has no features of item 'd'"),
        (flipped(0), "features of item 'd' are stale: its source has changed since"),
        (flipped(DIGEST_BYTES), "features of item 'd' are damaged; delete the file"),
        (flipped(HEADER_BYTES), "features of item 'd' are damaged; delete the file"),
        (flipped(-1), "features of item 'd' are damaged; delete the file"),
        (lambda record: record[:-2], "features of item 'd' are damaged; delete the file"),
        (lambda record: record[:-8], "features of item 'd' are damaged; delete the file"),
        (lambda record: record[:HEADER_BYTES], "features of item 'd' are damaged; delete the file"),
        (lambda record: record[: HEADER_BYTES - 1], "features of item 'd' are damaged; delete the file"),
        (lambda record: record + record[-8:], "features of item 'd' are damaged; delete the file"),
    ],
)
def test_a_record_that_has_changed_since_the_plan_is_refused(home, path, change, sentence):
    first, last = plans(home, shard_bytes=3 * ITEM_BYTES)
    changed(path, "d", change)
    load_shard(first)  # a, b, c: what lies in another run does not matter
    with pytest.raises(FeatureStoreError, match=rf"{sentence}; run: python launch/prepare\.py --dataset arts"):
        load_shard(last)
    with pytest.raises(FeatureStoreError, match=sentence):
        load_features(home, "arts", HUB, CATALOGUE, np.arange(5))


def test_what_is_missing_or_stale_is_found_by_the_plan(home):
    write_store(home, "arts", HUB, CATALOGUE, [*ARRAYS[:4], None])
    with pytest.raises(FeatureStoreError, match=r"has no features of item 'c'; run: python launch/prepare\.py"):
        plans(home)
    titles = [*CATALOGUE.titles[:2], "New", *CATALOGUE.titles[3:]]
    with pytest.raises(FeatureStoreError, match=r"features of item 'd' are stale.*; run: python launch/prepare\.py"):
        plan_shards(home, "arts", HUB, CATALOGUE._replace(titles=titles), np.arange(4))
    plans(home, rows=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"complete": False}, "extraction was cut off"),
        ({"format": "odmt-images-1"}, "has format 'odmt-images-1', expected 'odmt-features-2'"),
    ],
)
def test_a_store_that_is_not_whole_or_not_ours_is_refused_by_plan_and_loader(home, path, changes, sentence):
    (plan,) = plans(home)
    with RecordFile(path, write=True) as store:
        store.write({}, store.manifest() | changes)
    with pytest.raises(FeatureStoreError, match=sentence):
        plans(home)
    with pytest.raises(FeatureStoreError, match=sentence) as held:
        load_shard(plan)
    RecordFile(path).close()  # LMDB refuses a file that is still open
    assert held.tb


def test_a_store_of_another_encoder_under_the_right_name_is_refused(home, path):
    with RecordFile(path, write=True) as store:
        store.write({}, store.manifest() | {"encoder": {}})
    sentence = (
        r"another encoder \(model None instead of 'some/hub-model', .*\); delete the file; run: python launch/prep"
    )
    with pytest.raises(FeatureStoreError, match=sentence):
        plans(home)


def test_a_store_that_is_not_there_or_cut_short_is_refused(home, path):
    (plan,) = plans(home)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    with pytest.raises(FeatureStoreError, match=r"is cut off: \d+ of \d+ bytes; run: "):
        load_shard(plan)
    path.unlink()
    with pytest.raises(FeatureStoreError, match="does not exist; run: "):
        load_shard(plan)
    with pytest.raises(MissingDataError, match="'arts' has no text features of some/hub-model"):
        plans(home)


def test_a_loader_needs_nothing_but_its_plan(home, path, tmp_path):
    """Neither the data set nor the encoder: a task on another node may have the store alone."""
    (plan,) = plans(home)
    moved = path.rename(tmp_path / "elsewhere.lmdb")
    assert isinstance(load_shard(plan._replace(path=moved)), LoadedShard)


def test_shards_of_two_encoders_are_told_apart(home, path):
    other = dataclasses.replace(HUB, layer=3)
    write_store(home, "arts", other, CATALOGUE, [array + 10 for array in ARRAYS])
    found = [load_features(home, "arts", encoder, CATALOGUE, np.arange(5)) for encoder in (HUB, other)]
    assert all(isinstance(features, RaggedFeatures) for features in found)
    assert [features.tokens_of(2)[0, 0] for features in found] == [2, 12]
