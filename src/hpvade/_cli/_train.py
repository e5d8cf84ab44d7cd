from pathlib import Path
from typing import Annotated

import typer

from ._io import check_folder, complete
from ._options import (
    Accelerator,
    Epochs,
    GenesIn,
    GenesInOption,
    LabelsKey,
    Layer,
    MapGenes,
    NCellsKey,
    Obs,
    Preset,
    References,
    SampleKey,
    Seed,
    StudyKey,
)
from ._run import found, tell


def train(
    references: References,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Folder for the model.", show_default=False)
    ],
    labels_key: LabelsKey,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    map_genes: MapGenes = False,
    layer: Layer = None,
    sample_key: SampleKey = None,
    study_key: StudyKey = None,
    n_cells_key: NCellsKey = None,
    batch_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with the technical batch.")
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="default: the best measured configuration; spec: the literal specification.")
    ] = Preset.default,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in MODEL_DIR.")] = False,
) -> None:
    """Train a model on labelled single cells and save it.

    Example: `hpvade train ref.h5ad -o model/ --labels-key cell_type --sample-key donor`

    Several references: `hpvade train lab_a.h5ad lab_b.h5ad -o model/ --labels-key cell_type`

    REF holds raw counts (UMI counts per cell), in X or in a layer; labels may come in a table with --obs. Several files
    are several studies: bulk is solved with each, over the union of their genes. MODEL_DIR then serves any number of
    `hpvade deconvolve BULK --model MODEL_DIR`.
    """
    check_folder(output, overwrite=overwrite, hint="Pass --overwrite to replace the model, or choose another folder.")
    from ._fit import fit
    from ._references import read_references

    keys = {"--labels-key": labels_key, "--sample-key": sample_key, "--batch-key": batch_key}
    adata, layer, study_key = read_references(
        references,
        obs=obs,
        genes_in=genes_in.value,
        map_genes=map_genes,
        layer=layer,
        study_key=study_key,
        keys={**keys, "--n-cells-key": n_cells_key},
    )
    model = fit(
        adata,
        labels_key=labels_key,
        layer=layer,
        sample_key=sample_key,
        study_key=study_key,
        n_cells_key=n_cells_key,
        batch_key=batch_key,
        preset=preset.value,
        epochs=epochs,
        seed=seed,
        accelerator=accelerator,
    )
    with complete(output) as partial:
        model.save(partial)
    found(cell_types=model.cell_types, studies=model.studies, n_cells=adata.n_obs, n_genes=adata.n_vars)
    studies = f" of {len(model.studies)} studies" if model.studies else ""
    tell(f"{output}: model of {len(model.cell_types)} types, trained on {adata.n_obs} cells{studies}.")
