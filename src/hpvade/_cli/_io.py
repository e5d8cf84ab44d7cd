"""Read inputs, show tables, and write outputs that appear only when they are complete."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..io._atomic import install_file, install_folder, partial
from ..io._modalities import split_path
from ._errors import UsageError
from ._run import current, found, read, say, stamp, will_write

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from matplotlib.figure import Figure

BLOOD = "blood"  # the name of the model and of the anchor in the package


def read_bulk(path: Path, *, genes: "pd.Index | None" = None, genes_in: str = "auto") -> "ad.AnnData":
    """Bulk from a file of any kind that `hpvade.io.read_bulk` knows; names of genes are brought to those of `genes`."""
    check_exists(path)
    from ..io import read_bulk as read_file

    file = split_path(path)[0]
    before = stamp(file)
    bulk = _said(read_file(path, genes=genes_in))
    read(file, before)
    return bulk if genes is None else map_genes(bulk, genes)


def map_genes(bulk: "ad.AnnData", genes: "pd.Index") -> "ad.AnnData":
    """`bulk` with the names of genes that the reference has."""
    from .._keys import Keys
    from ..pp import map_genes as translate

    bulk = translate(bulk, genes)
    mapped = bulk.uns[Keys.GENE_MAP]
    summed = f", {mapped['summed']} names added up" if mapped["summed"] else ""
    say("note", f"genes: {mapped['species']}, {mapped['share']:.0%} of the reference's found{summed}")
    found(genes_mapped={"species": mapped["species"], "share_found": mapped["share"], "summed": mapped["summed"]})
    return bulk


def read_reference(path: Path, obs: Path | None = None, *, genes_in: str = "auto") -> "ad.AnnData":
    """Cells from a file or folder of any kind that `hpvade.io.read_reference` knows."""
    check_exists(path)
    if obs is not None:
        check_exists(obs)
    from ..io import read_reference as read_file

    files = [split_path(one)[0] for one in (path, *([] if obs is None else [obs]))]
    before = [stamp(file) for file in files]
    adata = _said(read_file(path, obs, genes=genes_in))
    for file, then in zip(files, before, strict=True):
        read(file, then)
    return adata


def read_anchor(anchor: Path) -> "ad.AnnData":
    """Cells whose labels hold: those of a file, or of the package."""
    if str(anchor) != BLOOD or anchor.exists():
        return read_reference(anchor)
    from ..datasets import blood_anchor

    return blood_anchor()


def read_json(path: Path):
    """What a JSON file holds."""
    check_input(path)
    import json

    read(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def read_mapping(path: Path) -> dict[str, str]:
    """A mapping of names from a JSON file."""
    mapping = read_json(path)
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise ValueError(f'{path} holds no mapping of names; expected {{"type": "column", ...}}.')
    return mapping


def _said(adata: "ad.AnnData") -> "ad.AnnData":
    """Say on stderr what was found out about a file."""
    from .._keys import Keys

    file = adata.uns.get(Keys.READ)
    if file is not None:
        say("note", f"{file['file']}: {adata.n_obs} x {adata.n_vars} genes; {'; '.join(file['notes'])}")
    return adata


def check_exists(path: Path) -> None:
    """Name what is not there; ``cells.h5mu/rna`` is, where its file is."""
    if not split_path(path)[0].exists():
        raise UsageError(f"{path} does not exist.")


def read_table(path: Path) -> "pd.DataFrame":
    """Proportions from a table (csv, tsv, xlsx): sample names in the first column, then one column per type."""
    check_input(path)
    from ..io._annotation import read_numbers

    read(path)
    return read_numbers(path)


def rows_of(table: "pd.DataFrame", names: "pd.Index", path: Path) -> "pd.DataFrame":
    """Rows of `table`, which comes from `path`, of samples; an error names those that it lacks."""
    missing = names.difference(table.index)
    if len(missing):
        raise ValueError(f"{path} lacks {len(missing)} of the {len(names)} samples, such as {missing[0]!r}.")
    return table.loc[names]


def join_samples(data: "ad.AnnData", samples: Path, keys: Sequence[str]) -> None:
    """Put columns of a table of samples into ``data.obs``."""
    check_input(samples)
    from ..io._annotation import NOTHING, match_rows, read_obs

    read(samples)
    table = read_obs(samples)
    for key in keys:
        if key not in table:
            raise UsageError(f"{samples} has no column {key!r}; its columns are {', '.join(map(str, table.columns))}.")
    wanted, names, _, _ = match_rows(data.obs_names.astype(str), table, samples.name, "samples")
    for key in keys:
        column = table[key].set_axis(names)
        column = column.mask(column.astype(str).str.strip().isin(NOTHING))  # an empty cell is no group
        data.obs[key] = column[~column.index.duplicated()].reindex(wanted).to_numpy()


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """CSV with the sample names in the column "sample"."""
    table.to_csv(path, index_label="sample")


def write_cells(adata: "ad.AnnData", path: Path) -> None:
    """Cells as h5ad, without what a model noted in them."""
    adata = adata.copy()
    adata.obs = adata.obs.drop(columns=[key for key in adata.obs if str(key).startswith("_scvi")])
    for key in [key for key in adata.uns if key.startswith("_scvi")]:
        del adata.uns[key]
    adata.write_h5ad(path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Draw `figure` into a file and forget it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def check_input(path: Path, *, folder: bool = False) -> None:
    """Name what is not there, before any work starts."""
    check_exists(path)
    if path.is_dir() != folder and split_path(path)[1] is None:
        raise UsageError(f"{path} is a {'file' if folder else 'folder'}; expected a {'folder' if folder else 'file'}.")


def check_output(path: Path, *suffixes: str) -> None:
    """Refuse, before any work starts, a file that cannot be written or whose ending says nothing of its format."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} cannot be written: expected a name that ends in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; expected the name of a file.")
    _check_writable(path.absolute().parent)
    will_write(path)


def check_outputs(paths: Sequence[Path], *suffixes: str) -> None:
    """`check_output` of several files, each of which may be named once."""
    if len(set(paths)) < len(paths):
        raise UsageError("-o names one file twice.")
    for path in paths:
        check_output(path, *suffixes)


def check_folder(path: Path, *, overwrite: bool, hint: str = "Choose another folder.") -> None:
    """Refuse, before any work starts, a folder that cannot be written, or holds something not to be overwritten."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; expected the name of a folder.")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path} exists and is not empty. {hint}")
    _check_writable(path.absolute())


def _check_writable(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; expected a folder.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written to.")


@contextmanager
def complete(path: Path, *, provenance: bool = True) -> Iterator[Path]:
    """A name to write a file or folder to; it moves to `path` in one step when the block ends without an error.

    Files of the same name are replaced, and those of an earlier model where a model was written; others that are in
    the folder `path` already stay. Where a command runs, the provenance goes beside a file and into a folder.
    """
    run = current() if provenance else None
    with partial(path, inside=path.is_dir()) as part:
        yield part
        text = None if run is None else _record(part, path)
        _install(part, path)
    if run is not None:
        _note(path, text)


def note_results(folder: Path) -> None:
    """Write the provenance of a folder that filled while a training ran."""
    if current() is not None:
        _note(folder, _record(folder, folder))


def _record(part: Path, path: Path) -> str:
    from ._provenance import record

    return record(current(), part, path)


def _note(path: Path, text: str) -> None:
    from ._provenance import place

    with partial(place(path)) as part:
        part.write_text(text, encoding="utf-8")
        install_file(part, place(path))
    current().outputs.append(path)


def _install(part: Path, path: Path) -> None:
    if not part.is_dir():
        return install_file(part, path)
    if not (part / "model.json").is_file():
        return install_folder(part, path)
    from ..models._saving import install_model

    install_model(part, path)


def as_text(table: "pd.DataFrame") -> str:
    """`table` with three decimals; what is undefined is "-"."""
    return table.to_string(float_format="{:z.3f}".format, na_rep="-")


def show(table: "pd.DataFrame", title: str) -> None:
    """Print `table` with three decimals, unless nobody reads it; what is undefined is "-"."""
    run = current()
    if run is not None and (run.quiet or run.as_json):
        return
    import numpy as np
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    grid.show_edge, grid.pad_edge, grid.collapse_padding = False, False, True
    grid.add_column(str(table.index.name or "sample"))
    for name in table.columns:
        grid.add_column(Text(str(name)), justify="right")
    for name, row in zip(table.index, table.to_numpy(dtype=float), strict=True):
        grid.add_row(Text(str(name)), *("-" if np.isnan(value) else f"{value:z.3f}" for value in row))
    console = Console()
    if not console.is_terminal:
        # nothing is cut off in a file or a pipe
        needed = console.measure(grid, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, needed)
    console.print(grid)
    console.print()
