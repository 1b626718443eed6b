"""Tests of components.gguf."""
