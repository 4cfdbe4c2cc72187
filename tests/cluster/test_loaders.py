from odmt.cluster.shared_features import Loaders
from odmt.experiment.arrays import load_split, plan_encoder_features
from odmt.features.shards import load_shard


def test_trials_are_given_the_split_without_test_items():
    assert Loaders() == (load_split, plan_encoder_features, load_shard)
