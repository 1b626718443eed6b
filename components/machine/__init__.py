"""The machine at hand: what it has, what it is fastest with, what was measured on it before."""
