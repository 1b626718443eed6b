"""What strangers may not do: pages of theirs, bytes of theirs, and eyes of theirs on secrets (docs/security.md)."""
