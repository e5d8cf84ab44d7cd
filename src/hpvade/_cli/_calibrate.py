from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ._io import check_exists, check_folder, check_input, check_output, complete, read_mapping, read_table
from ._options import (
    Accelerator,
    BadSamples,
    Bulk,
    BulkLayer,
    BulkUnits,
    GenesIn,
    GenesInOption,
    InputType,
    MapGenes,
    Missing,
    MissingGenes,
    Model,
    OnBadSample,
)
from ._run import found, tell


def calibrate(
    bulk: Bulk,
    model: Model,
    truth: Annotated[
        Path,
        typer.Option(
            metavar="T.csv",
            help="Measured fractions of cells of five samples or more, samples x columns.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="MODEL_DIR", help="Folder for the calibrated model.", show_default=False
        ),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(metavar="M.json", help='Truth column of every type, {"CD4 T": "T"}; by default equal names.'),
    ] = None,
    table: Annotated[Path | None, typer.Option(metavar="OUT.csv", help="Write offsets and errors here too.")] = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    on_bad_sample: BadSamples = OnBadSample.error,
    accelerator: Accelerator = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in MODEL_DIR.")] = False,
) -> None:
    """Correct the level of each type with samples of known composition.

    Example: `hpvade calibrate bulk.tsv --model model/ --truth flow.csv -o calibrated/`

    `hpvade deconvolve --model calibrated/` then gives the corrected answers for all samples of this protocol. Refused
    where samples contradict each other: the model is then not written.
    """
    check_folder(output, overwrite=overwrite, hint="Pass --overwrite to replace the model, or choose another folder.")
    if table is not None:
        check_output(table, ".csv")
    check_exists(bulk)
    check_input(truth)
    from ._fit import load_with_bulk

    how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
    trained, data = load_with_bulk(model, bulk, **how)
    pairs = None if mapping is None else read_mapping(mapping)
    reading = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    reading["on_bad_sample"] = on_bad_sample.value
    offsets = trained.calibrate(data, read_table(truth), mapping=pairs, **reading)
    with ExitStack() as stack:
        trained.save(stack.enter_context(complete(output)))
        if table is not None:
            offsets.to_csv(stack.enter_context(complete(table)), index_label="type")
    before, after = offsets.loc["all", ["rmse_before", "rmse_after"]]
    n_samples = offsets.attrs["n_samples"]
    found(offsets=offsets, n_samples=n_samples)
    tell(f"{output}: calibrated with {n_samples} samples; RMSE {before:.3f} before, {after:.3f} after (leave-one-out).")
