"""The race of `benchmarks.pretrain`: equal wall time for Inkwell, the transformers Trainer and litgpt, and time to target.

Everyone gets the same tokens, cores, allocator settings and as many parameters as Inkwell's default has. The clock starts
with the command: imports and compiling are on it, saving and scoring after the last step are not (Inkwell's own validation
at its last step is). A schedule that ends too early or too late would not be honest, so each run's length is planned: the
others' from a short trial of their speed, Inkwell's from a short run of its own.
"""
