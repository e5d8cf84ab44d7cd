"""IVAE: an autoencoder of cells with a readable bottleneck of two or three axes."""
