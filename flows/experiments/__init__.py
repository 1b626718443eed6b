"""Comparisons by small trainings: proxies, several seeds, and what may be said of their differences."""
