"""Tries values of parameters, each trial a DVC experiment under Prefect: `python -m flows.sweep`."""
