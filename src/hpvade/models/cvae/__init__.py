"""ConditionalVAE: cells conditioned on cell type, perturbation and experiment."""
