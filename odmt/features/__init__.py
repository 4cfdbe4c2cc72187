"""Frozen encoders and the LMDB stores of images and features."""
