"""What several benchmarks need: the authors' algorithm, made data, accounting."""
