"""The DVC graph as a Prefect flow: its stages and hints, how they run, how far they are, what MLflow is told."""
