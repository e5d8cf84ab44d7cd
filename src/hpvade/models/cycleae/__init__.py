"""CycleAE: additive, context-conditioned cycle autoencoder."""
