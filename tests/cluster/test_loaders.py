import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from odmt.cluster import shared_features
from odmt.cluster.shared_features import Loaders
from odmt.errors import DataError, FeatureStoreError, MissingDataError
from odmt.experiment.arrays import load_split, plan_encoder_features
from odmt.features.shards import load_shard


def test_trials_are_given_the_split_without_test_items():
    assert Loaders() == (load_split, plan_encoder_features, load_shard)


def refuse(*_):
    raise FeatureStoreError("x: is damaged")


def test_a_node_without_the_store_is_named_and_told_of_the_shared_file_system(tmp_path):
    missing = SimpleNamespace(path=tmp_path / "text-1.lmdb")
    sentence = (
        rf"text-1\.lmdb: does not exist on node {socket.gethostname()}; ODMT_HOME must be on a file system that all"
    )
    with pytest.raises(MissingDataError, match=sentence):
        shared_features._load_shard._function(refuse, missing)
    with pytest.raises(MissingDataError, match=r"data/arts: does not exist on node .* all nodes share"):
        shared_features._load_split._function(load_split, str(tmp_path), {"dataset": "arts"})


def test_a_store_that_is_there_and_refused_keeps_its_own_sentence():
    with pytest.raises(DataError, match=r"^x: is damaged$"):
        shared_features._load_shard._function(refuse, SimpleNamespace(path=Path(__file__)))
