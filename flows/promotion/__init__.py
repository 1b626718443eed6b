"""Which model is the champion: the registry, evidence of both, paired tests, kept files, a page."""
