"""Predicted proportions beside measured ones: alignment by name, metrics, tables. `tl` shows them to users."""
