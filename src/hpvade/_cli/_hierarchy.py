from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_folder, complete, read_mapping, write_table
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


def hierarchy(
    bulk: Bulk,
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the tables.", show_default=False)
    ],
    tree: Annotated[
        Path | None, typer.Option(metavar="M.json", help='Your groups, {"type": "group"}; by similarity by default.')
    ] = None,
    levels: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Levels above the types, without --tree; 1 by default.")
    ] = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Draw splits that the data do not decide towards the cohort's mean.")
    ] = False,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    on_bad_sample: BadSamples = OnBadSample.error,
    accelerator: Accelerator = "auto",
) -> None:
    """Estimate the proportions of groups of similar types, level by level.

    Example: `hpvade hierarchy bulk.tsv --model model/ -o levels/`

    DIR receives tree.csv (types x levels) and one table per level, samples x groups: level_1.csv, the coarsest, to
    type.csv.
    """
    if tree is not None and levels is not None:
        raise UsageError("--levels N is for groups by similarity; with --tree M.json leave it out.")
    check_folder(output, overwrite=True)
    check_exists(bulk)
    from .._keys import Keys
    from ._fit import load_with_bulk

    how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
    trained, data = load_with_bulk(model, bulk, **how)
    tables = trained.deconvolve_hierarchy(
        data,
        hierarchy="auto" if tree is None else read_mapping(tree),
        levels=levels or 1,
        shrink=shrink,
        layer=bulk_layer,
        input_type=input_type.value,
        missing=missing.value,
        on_bad_sample=on_bad_sample.value,
    )
    groups = data.uns[Keys.HIERARCHY]["hierarchy"]
    with complete(output) as folder:
        folder.mkdir()
        groups.to_csv(folder / "tree.csv", index_label="type")
        for level, table in tables.items():
            write_table(table, folder / f"{level}.csv")
    found(tree=groups, levels=tables)
    sizes = ", ".join(f"{level} ({table.shape[1]})" for level, table in tables.items())
    tell(f"{output}: {data.n_obs} samples at the levels {sizes}.")
