"""Conversations as a model sees them: markup, encoding, and the words that people ask in."""
