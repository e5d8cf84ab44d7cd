"""What a reference is: checks, signature, RNA content, folds, and mixtures drawn from it."""
