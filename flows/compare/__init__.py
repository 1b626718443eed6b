"""Two runs side by side on one page that opens offline: parameters, metrics, curves, samples, scores and data."""
