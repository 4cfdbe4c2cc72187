from odmt.cluster.shared_features import Loaders
from odmt.experiment.arrays import load_encoder_features, load_split


def test_trials_are_given_the_split_without_test_items():
    assert Loaders() == (load_split, load_encoder_features)
