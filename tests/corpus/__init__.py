"""Tests of components.corpus."""
