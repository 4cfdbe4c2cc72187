"""Ray without a word of tuning: where it runs, and what its object store shares."""
