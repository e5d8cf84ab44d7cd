"""One folder per model: `_model.py` faces AnnData, `_module.py` holds the mathematics."""
