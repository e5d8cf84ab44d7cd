"""The files that `hpvade cvae infer` writes."""

import json
from pathlib import Path

import numpy as np


def write_json(path: Path, document) -> None:
    """JSON of plain numbers; what JSON cannot hold is an error."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def cell_types(network, adata, folder: Path, batch_size: int) -> None:
    """``predicted_cell_types.npy`` and ``true_cell_types.npy``: ids, one per cell; unknown types have that of <UNK>."""
    found = network.predict(adata, batch_size=batch_size, unseen="unk")
    vocabulary = network._vocabularies["labels"]
    np.save(folder / "predicted_cell_types.npy", vocabulary.ids(found))
    has_truth = vocabulary.column in adata.obs
    truth = (
        vocabulary.ids(adata.obs[vocabulary.column], "unk") if has_truth else np.full(len(found), len(vocabulary) - 1)
    )
    np.save(folder / "true_cell_types.npy", truth)


def perturbations(network, adata, folder: Path, batch_size: int) -> None:
    """``perturbation_effects.json``: effects of every perturbation but the control, over its cells of any type."""
    from ..models.cvae._predict import effects_by_perturbation

    control = network._control_name(None)
    effects = effects_by_perturbation(network, adata, control, batch_size)
    document = {
        name: {"mean_effect": mean.tolist(), "std_effect": sd.tolist(), "n_cells": n}
        for name, (mean, sd, n) in effects.items()
    }
    write_json(folder / "perturbation_effects.json", document)


def latent(network, adata, folder: Path, batch_size: int) -> None:
    """``latent_representations.npy``, ``latent_metadata.json`` and the two figures."""
    import matplotlib

    matplotlib.use("Agg")
    from .. import pl
    from ..models.cvae._predict import posterior
    from ._io import save_figure

    cells = network._read(adata, None, used=("labels", "perturbation", "batch"), unseen="unk")
    mu, _ = posterior(network, cells, batch_size)
    np.save(folder / "latent_representations.npy", mu)
    keys = {"cell_type": "labels", "perturbation": "perturbation", "srx_accession": "batch"}
    write_json(folder / "latent_metadata.json", {name: cells.of(key).tolist() for name, key in keys.items()})
    columns = [network._vocabularies[key].column for key in ("labels", "perturbation")]
    groups = adata.obs[[column for column in columns if column in adata.obs]].astype(str)
    for method in ("pca", "tsne"):
        save_figure(pl.latent_space(mu, groups, method=method), folder / f"latent_space_{method}.png")


def generated(network, names: dict, n_cells: int, seed: int, folder: Path) -> None:
    """``generated_cells.npy``: counts (cells, genes)."""
    cells = network.generate(
        n_cells,
        labels=names["cell_type"],
        perturbation=names["perturbation"],
        experiment=names["srx_accession"],
        seed=seed,
    )
    np.save(folder / "generated_cells.npy", cells.X.toarray())
