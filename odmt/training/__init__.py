"""The trainer, its optimiser and its checkpoints."""
