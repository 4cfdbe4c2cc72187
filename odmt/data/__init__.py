"""Interactions, catalogue and the leave-one-out split."""
