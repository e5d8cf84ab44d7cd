"""Drawings that both `pl` and methods of the models hand out; tables in, figures out."""
