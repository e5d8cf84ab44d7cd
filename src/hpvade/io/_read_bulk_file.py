"""`hpvade.io.read_bulk`: bulk samples from the files that people have."""

from collections.abc import Iterable, Sequence
from io import IOBase
from os import PathLike
from pathlib import Path
from typing import Literal

import pandas as pd
from anndata import AnnData

from .._keys import Keys
from ._kinds import as_path, file_kind, read_any_cells, read_whole
from ._layout import Layout, lay_out
from ._quantifiers import files_of, joined, quantified, sample_name


def read_bulk(
    path: str | PathLike | Sequence[str | PathLike],
    *,
    genes: Literal["auto", "rows", "columns"] = "auto",
    sheet: str | None = None,
) -> AnnData:
    r"""Read bulk samples from a file of any usual kind.

    What a file is tells its content: h5ad and zarr; tables of text (csv, tsv, txt, GCT; gzipped or not) and xlsx, with
    genes as rows or as columns; merged tables of featureCounts, salmon (nf-core, tximport) and HTSeq; and files with
    one sample each, of salmon, kallisto, RSEM, StringTie and STAR, alone, as a list, or as their folder. Delimiter,
    header line, decimal comma and the side of the genes are found out. Columns of annotation are left out or kept in
    ``var``; what was found is said in the notes, and what is doubtful is an error.

    Parameters
    ----------
    path
        The file; a list of files, or a folder, with one sample each. ``"samples.h5mu/rna"`` is a modality of a MuData.
    genes
        Whether genes are the rows or the columns of a table; told by their names by default.
    sheet
        Sheet of an xlsx file; the first one with a table by default.

    Returns
    -------
    Samples x genes, in double precision, with the names of genes as in the file (:func:`hpvade.pp.map_genes` translates
    them). ``var`` has ``length``, ``gene_id`` and ``gene_name`` where the file has them. TPM from a quantifier come
    with its counts in ``layers["counts"]``. ``uns["hpvade_read"]`` holds the name of the ``file`` and the ``notes``.

    Raises
    ------
    TypeError
        `path` is no name, such as a table in memory.
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty, damaged, truncated, of another kind, holds cells that are no numbers, the same sample twice,
        transcripts, or results of a test; or it leaves in doubt what it means. The message says what was found, and
        what would be read.
    ImportError
        An xlsx file without openpyxl.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "bulk.csv").write_text("gene;s1;s2\nCD3E;1,5;0\nCD19;0;2,5\nACTB;9;8\n")
    ...     bulk = read_bulk(Path(folder, "bulk.csv"))
    >>> bulk.to_df().loc["s2"].tolist(), list(bulk.uns["hpvade_read"]["notes"])
    ([0.0, 2.5, 8.0], ['fields separated by semicolons', 'genes are the rows', 'decimal commas'])
    """
    if genes not in ("auto", "rows", "columns"):
        raise ValueError(f"genes={genes!r}; expected 'auto', 'rows' or 'columns'.")
    if isinstance(path, Iterable) and not isinstance(path, str | PathLike | IOBase | pd.DataFrame):
        return _of_files([as_path(one) for one in path], genes)
    path = as_path(path)
    kind = file_kind(path)
    if kind in ("h5ad", "zarr", "mudata"):
        return read_whole(path, kind)
    if kind in ("10x_h5", "10x_mtx"):
        raise ValueError(f"{path} holds single cells (10x); read them with hp.io.read_reference.")
    if kind == "folder":
        return _of_files(files_of(path), genes, path.name)
    return _as_adata(_of_file(path, genes, sheet, kind), path.name)


def _of_file(path: Path, genes: str, sheet: str | None = None, kind: str | None = None) -> Layout:
    cells = read_any_cells(path, kind or file_kind(path), sheet)
    found = quantified(cells, path)
    return lay_out(cells, path.name, sample_name(path), genes) if found is None else found


def _of_files(paths: list[Path], genes: str, name: str | None = None) -> AnnData:
    if not paths:
        raise ValueError("No files were given; expected one at least.")
    kinds = [file_kind(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind not in ("text", "xlsx"):
            raise ValueError(f"{path} is no table ({kind}); several files are joined only if they are tables.")
    layouts = [_of_file(path, genes, None, kind) for path, kind in zip(paths, kinds, strict=True)]
    layout = joined(layouts, [str(path) for path in paths])
    layout.notes.append(f"{len(paths)} files")
    return _as_adata(layout, name or paths[0].name)


def _as_adata(layout: Layout, name: str) -> AnnData:
    adata = AnnData(layout.values, obs=layout.obs, var=layout.var)
    if layout.counts is not None:
        adata.layers["counts"] = layout.counts
    adata.uns[Keys.READ] = {"file": name, "notes": layout.notes}
    return adata
