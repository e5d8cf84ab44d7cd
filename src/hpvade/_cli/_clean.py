from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import check_output, complete, read_reference, write_cells
from ._options import Accelerator, CellsOut, Epochs, GenesIn, GenesInOption, Layer, Obs, Reference, Seed
from ._run import found, tell

if TYPE_CHECKING:
    import pandas as pd


def clean(
    reference: Reference,
    output: CellsOut,
    batch_key: Annotated[
        str,
        typer.Option(metavar="KEY", help="Column of REF.obs with the libraries (lanes, samples).", show_default=False),
    ],
    labels_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with cell types; clusters without it.")
    ] = None,
    raw: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LIBRARY=]RAW",
            help="All droplets, as raw_feature_bc_matrix.h5: those without a cell give the profile of the ambient RNA. "
            "Repeat it with the library's name in front for one file per library.",
        ),
    ] = None,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Remove ambient RNA from a reference.

    Example: `hpvade clean ref.h5ad -o clean.h5ad --batch-key library --labels-key cell_type`

    OUT.h5ad holds whole counts, the share removed from each cell in obs["ambient_removed"] and the ambient share of
    each library, with its interval, in uns["ambient_share"]. See the guide on when it helps.
    """
    check_output(output, ".h5ad")
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    profile = _measured(raw, adata.obs[batch_key].astype(str).unique()) if raw and batch_key in adata.obs else None
    import scvi

    from .._keys import Keys
    from ..models.ambient._model import AmbientRegularizedSCVI
    from ._fit import quiet
    from ._progress import training_options

    quiet()
    scvi.settings.seed = seed
    AmbientRegularizedSCVI.setup_anndata(adata, layer=layer, batch_key=batch_key)
    model = AmbientRegularizedSCVI(adata)
    model.train(max_epochs=epochs, accelerator=accelerator, **training_options())
    cells = model.get_clean_reference(labels_key=labels_key, ambient_profile=profile, seed=seed)
    with complete(output) as partial:
        write_cells(cells, partial)
    table = cells.uns[Keys.AMBIENT_SHARE]
    found(n_cells=cells.n_obs, ambient_share=dict(table["share"].items()), ambient_interval=_intervals(table))
    tell(f"{output}: {cells.n_obs} cells x {cells.n_vars} genes.")
    for name, share, lower, upper in table[["share", "lower", "upper"]].itertuples():
        ambient = f"{share:.1%} of the counts were ambient ({lower:.1%} to {upper:.1%})"
        tell(f"- {name}: {ambient if share else f'no evidence of ambient RNA, left as it is (up to {upper:.1%})'}")


def _intervals(table: "pd.DataFrame") -> dict[str, list[float]]:
    return {str(name): [float(lower), float(upper)] for name, lower, upper in table[["lower", "upper"]].itertuples()}


def _measured(raw: list[str], libraries: list[str]) -> "pd.DataFrame":
    """Profiles of empty droplets (genes x libraries); of a file without a library's name one for all."""
    import pandas as pd

    from ..pp import ambient_profile

    paths: dict[str, str] = {}
    for text in raw:
        library, equals, path = text.partition("=")
        name, path = (library, path) if equals and not Path(text).exists() else ("all", text)
        if name != "all" and name not in libraries:
            raise UsageError(f"--raw {text}: REF has no library {name}; its libraries are {', '.join(libraries)}.")
        if paths.setdefault(name, path) != path:
            raise UsageError(f"--raw {text}: there is another file for {name}. Give each library one.")
    if "all" in paths:
        if len(paths) > 1:
            raise UsageError(f"--raw {paths['all']} names no library and others do. Put LIBRARY= before each file.")
    elif missing := [name for name in libraries if name not in paths]:
        raise UsageError(f"--raw has no file for {', '.join(missing)}. Add --raw {missing[0]}=FILE.")
    columns = {}
    for name, path in paths.items():
        try:
            columns[name] = ambient_profile(read_reference(Path(path)))["all"]
        except ValueError as error:
            raise ValueError(f"--raw {path}: {error}") from error
    return pd.DataFrame(columns)
