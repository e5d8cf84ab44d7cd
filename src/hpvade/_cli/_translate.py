from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_output, complete, read_reference, write_cells
from ._options import Accelerator, CellsOut, Epochs, GenesIn, GenesInOption, Layer, Obs, Reference, Seed
from ._run import found, tell


def translate(
    reference: Reference,
    output: CellsOut,
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="FIELD=VALUE", help="Target context; repeat it.", show_default=False),
    ],
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="FIELD", help="Column of REF.obs that the model knows, too, such as the type."),
    ] = None,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Move a reference to the context of the bulk: its assay, disease or sex.

    Example: `hpvade translate ref.h5ad -o ill.h5ad --to condition=ill --field cell_type`

    Cells keep their labels and totals; what changes is the difference between contexts, as training cells show it.
    """
    pairs = dict(_pair(text) for text in to)
    check_output(output, ".h5ad")
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    if absent := [key for key in pairs if key not in adata.obs]:
        columns = ", ".join(map(str, adata.obs)) or "none"
        raise UsageError(f"--to {absent[0]}={pairs[absent[0]]}: REF.obs has no column {absent[0]}; found {columns}.")
    import scvi

    from ..models.cycleae._model import CycleAE
    from ._fit import quiet
    from ._progress import training_options

    quiet()
    scvi.settings.seed = seed
    keys = list(dict.fromkeys([*pairs, *(field or [])]))
    CycleAE.setup_anndata(adata, keys, layer=layer)
    model = CycleAE(adata)
    target = {key: _value(model, key, text) for key, text in pairs.items()}
    n_epochs = {} if epochs is None else {"max_epochs": epochs}
    model.train(accelerator=accelerator, **n_epochs, **training_options())
    cells = model.translate_reference(adata, to=target)
    with complete(output) as partial:
        write_cells(cells, partial)
    found(n_cells=cells.n_obs, target=target)
    tell(f"{output}: {cells.n_obs} cells x {cells.n_vars} genes, {', '.join(to)}.")


def _pair(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UsageError(f"--to {text}: expected FIELD=VALUE.")
    return field, value


def _value(model, field: str, text: str):
    """A category of the model, which may be a number or a boolean, from the text of the command line."""
    known = model.categories.get(field, [])
    for value in known:
        if str(value) == text:
            return value
    raise UsageError(f"--to {field}={text}: {field} of REF has no {text}; found {', '.join(map(str, known))}.")
