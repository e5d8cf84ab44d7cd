"""Training: the runner that survives Ctrl-C, callbacks, checkpoints and the training plans."""
