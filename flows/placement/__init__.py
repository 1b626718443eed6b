"""Where stages run: in the one checkout (`workspace`), or each in a clone at a commit (`isolated`)."""
