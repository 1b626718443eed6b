"""Processes that work together, or for one another."""
