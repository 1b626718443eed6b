"""Faster equivalents of a decoder's modules while it trains; the model that is saved stays a stock transformers class."""
