from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._io import BLOOD, check_output, complete, read_anchor, read_mapping, read_reference, write_cells
from ._options import Anchor, AnchorLabelsKey, GenesIn, GenesInOption, Layer, NameMapping, Obs, Reference, Seed
from ._run import found, tell


class Method(StrEnum):
    """Classifiers."""

    logistic = "logistic"
    scanvi = "scanvi"


def transfer_labels(
    reference: Reference,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=".h5ad: REF with the new labels; .csv: one row per cell, for --obs of other commands.",
            show_default=False,
        ),
    ],
    labels_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with labels; without it every cell is asked.")
    ] = None,
    anchor: Anchor = Path(BLOOD),
    anchor_labels_key: AnchorLabelsKey = "cell_type",
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Give new labels among these types only; repeat it."),
    ] = None,
    mapping: NameMapping = None,
    min_probability: Annotated[float, typer.Option(metavar="P", min=0, max=1, help="Cells below get no label.")] = 0.5,
    method: Annotated[Method, typer.Option(help="Logistic regression, or scANVI.")] = Method.logistic,
    batch_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with batches, each standardised by itself.")
    ] = None,
    key_added: Annotated[str, typer.Option(metavar="KEY", help="Column for the new labels.")] = "transferred_labels",
    keep_unlabelled: Annotated[
        bool, typer.Option("--keep-unlabelled", help="Keep cells without a label; they are left out by default.")
    ] = False,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    seed: Seed = 0,
) -> None:
    """Label cells as an anchor would, whose labels can be trusted.

    Example: `hpvade transfer-labels ref.h5ad -o repaired.h5ad --labels-key cell_type --type "CD4 T" --type "CD8 T"`

    Then `hpvade train repaired.h5ad -o model/ --labels-key transferred_labels`. Nothing of REF is overwritten.
    """
    check_output(output, ".h5ad", ".csv")
    pairs = None if mapping is None else read_mapping(mapping)
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    trusted = read_anchor(anchor)
    import scvi

    from .._keys import Keys
    from ..pp import transfer_labels as transfer

    scvi.settings.seed = seed
    transfer(
        adata,
        trusted,
        labels_key=labels_key,
        anchor_labels_key=anchor_labels_key,
        types=types or None,
        mapping=pairs,
        min_probability=min_probability,
        method=method.value,
        batch_key=batch_key,
        layer=layer,
        key_added=key_added,
    )
    labelled = adata.obs[key_added].notna()
    kept = adata if keep_unlabelled else adata[labelled].copy()
    with complete(output) as partial:
        if output.suffix.lower() == ".csv":
            columns = [key_added, *(Keys.of_label(key_added, name) for name in ("probability", "entropy"))]
            kept.obs[columns].to_csv(partial, index_label="cell")
        else:
            write_cells(kept, partial)
    result = adata.uns[key_added]
    counts = {str(name): int(count) for name, count in kept.obs[key_added].value_counts().items()}
    n_open = int((~labelled).sum())
    found(n_cells=kept.n_obs, n_without_label=n_open, counts=counts, accuracy=result["accuracy"])
    tell(f"{output}: {kept.n_obs} cells; {n_open} of {adata.n_obs} got no label.")
    for name, count in counts.items():
        tell(f"- {name}: {count}")
