"""The ODMT model and its losses; tensors and numbers only."""
