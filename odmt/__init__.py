"""ODMT: hyperparameter search for multi-modal sequential recommenders."""
