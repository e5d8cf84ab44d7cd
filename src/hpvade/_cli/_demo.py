import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._io import check_folder, complete, save_figure, show, write_table
from ._options import Accelerator, Epochs, Seed
from ._run import found, tell

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.hpvade._model import HPVADE

_CURVES = ["loss", "elbo", "prop", "bulk_recon", "proto", "rmse_skill"]
_SPEC_KEY = "hpvade_spec_proportions"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")] = Path(
        "hpvade_demo"
    ),
    seed: Seed = 0,
    epochs: Epochs = None,
    accelerator: Accelerator = "auto",
) -> None:
    """Deconvolve real blood samples and compare with flow cytometry.

    Example: `hpvade demo`

    Takes 2,638 labelled blood cells (10x PBMC 3k), repairs the labels of T and NK cells with protein-labelled ones,
    trains on them, estimates the composition of 8 bulk PBMC samples (TPM, GSE64655) and prints the errors beside the
    literal specification, NNLS and the constant predictor, which knows the mean of the truth. Proportions are fractions
    of cells. DIR receives bulk.h5ad, proportions.csv, metrics.csv, four plots and the trained model.
    """
    start = time.perf_counter()
    check_folder(output, overwrite=True)
    from .. import datasets
    from .._keys import Keys
    from ..pp import transfer_labels
    from ..tl import evaluate
    from ._fit import fit

    adata, bulk = datasets.pbmc_reference(), datasets.pbmc_bulk()
    tell(f"Reference: {adata.n_obs} cells x {adata.n_vars} genes. Bulk: {bulk.n_obs} samples.")
    repaired = "transferred_labels"
    transfer_labels(adata, datasets.blood_anchor(), labels_key="cell_type", types=["CD4 T", "CD8 T", "NK"])
    tell(f"Labels of T and NK cells from protein-labelled cells: {adata.obs[repaired].isna().sum()} left out.")
    adata = adata[adata.obs[repaired].notna()].copy()
    options = {"labels_key": repaired, "epochs": epochs, "seed": seed, "accelerator": accelerator}
    tell("Training the literal specification ...")
    fit(adata, preset="spec", **options).deconvolve(bulk, key_added=_SPEC_KEY)
    tell("Training the default model ...")
    model = fit(adata, **options)
    proportions = model.deconvolve(bulk)
    metrics = evaluate(bulk, prediction_key=[Keys.PROPORTIONS, _SPEC_KEY])
    metrics = metrics.rename({Keys.PROPORTIONS: "hpvade", _SPEC_KEY: "hpvade (spec)"})
    with complete(output) as folder:
        folder.mkdir()
        write_table(proportions, folder / "proportions.csv")
        metrics.to_csv(folder / "metrics.csv")
        bulk.write_h5ad(folder / "bulk.h5ad")
        model.save(folder / "model")
        _draw(bulk, model, folder)
    found(proportions=proportions, metrics=metrics)
    show(proportions, "Proportions of cells")
    show(metrics, "Against flow cytometry (the constant predictor knows the mean of the truth)")
    tell(f"Results, plots and model are in {output}. Wall time {time.perf_counter() - start:.0f} s.")


def _draw(bulk: "AnnData", model: "HPVADE", folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from .. import pl

    save_figure(pl.proportions(bulk).figure, folder / "proportions.png")
    save_figure(pl.agreement(bulk), folder / "agreement.png")
    save_figure(pl.training(model.history, keys=_CURVES), folder / "training.png")
    save_figure(pl.signatures(model.get_signature_matrix()).figure, folder / "signatures.png")
