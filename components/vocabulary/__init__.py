"""Tokenizers and what their tokens spell."""
