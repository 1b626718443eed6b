"""GGUF files read: metadata, tokenizers, models."""
