from pathlib import Path
from typing import Annotated

import typer

from ._io import check_folder, complete, read_reference
from ._options import (
    Accelerator,
    Epochs,
    LabelsKey,
    Layer,
    NCellsKey,
    Obs,
    Preset,
    Reference,
    SampleKey,
    Seed,
    StudyKey,
)


def train(
    reference: Reference,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Folder for the model.", show_default=False)
    ],
    labels_key: LabelsKey,
    obs: Obs = None,
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

    REF holds raw counts (UMI counts per cell), in X or in a layer; labels may come in a table with --obs. MODEL_DIR
    then serves any number of `hpvade deconvolve BULK --model MODEL_DIR`.
    """
    check_folder(output, overwrite=overwrite, hint="Pass --overwrite to replace the model, or choose another folder.")
    adata = read_reference(reference, obs)
    from ._fit import fit

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
    n_types = model.get_signature_matrix().shape[1]
    typer.echo(f"{output}: model of {n_types} types, trained on {adata.n_obs} cells.")
