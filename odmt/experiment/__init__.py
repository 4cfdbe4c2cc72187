"""From a configuration and arrays to one training run."""
