"""Texts: the contracts of the data between the steps, and what is known of languages and judged by policies."""
