"""HPVADE: cell-type proportions of bulk samples from a labelled single-cell reference."""
