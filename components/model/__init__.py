"""Decoders: their architectures, folders and forward passes, and what every step asks of a model."""
