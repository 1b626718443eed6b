"""How loss falls with size and tokens: models are trained and a law is fitted, `python -m flows.scaling`."""
