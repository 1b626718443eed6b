"""Tests of components.machine."""
