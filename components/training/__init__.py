"""The training engine: what `pretrain` and `sft` run. Import it inside functions: it needs torch and Lightning."""
