"""Which model answered: one value wherever a report, a provenance file or a program asks."""

import hashlib

import numpy as np


def fingerprint(model) -> str:
    """SHA-256 of what a model answers with: its types, its genes and its numbers.

    It is the same for a model in memory and as loaded from its folder, on any device.
    """
    types, genes = (map(str, names) for names in (model.cell_types, model.get_var_names()))
    digest = hashlib.sha256("\n".join([*types, "", *genes]).encode())
    for name, tensor in sorted(model.module.state_dict().items()):
        digest.update(f"\0{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
