"""What the rows and columns of a table of expression are: genes, samples, annotation."""

import re
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import pandas as pd

from .._text import listed
from ._gene_map import gene_likeness
from ._text_tables import Cells, is_number, looks_numeric, to_numbers

_GENE_HEADS = re.compile(
    r"(ensembl|hgnc|gene|genes|external|ens|mgi|ncbi|stable|symbol|id|ids|name|names|feature|target|rowname|rownames|"
    r"entrez|geneid|genename|ensgene|entrezid|stable|probe|version|_)+"
)
_SAMPLE_HEADS = {"sample", "samples", "sample_id", "sampleid", "sample_name", "samplename", "patient", "patient_id"} | {
    "donor", "subject", "run", "barcode", "barcodes", "cell", "cells", "cell_id", "cellid", "srr", "gsm", "library",
}  # fmt: skip
_SYMBOL_HEADS = {"gene_name", "genename", "symbol", "gene_symbol", "hgnc_symbol", "external_gene_name", "gene_symbols"}
_ID_HEADS = {"gene_id", "geneid", "ensembl_id", "ensembl", "ensembl_gene_id", "ensgene", "gene_stable_id"}
_LENGTHS = {"length", "gene_length", "effective_length", "eff_length", "effectivelength", "transcript_length"}
_ANNOTATION = re.compile(
    r"chr|chrom|chromosome.*|seqnames?|scaffold.*|(gene_)?start(_bp)?|(gene_)?end(_bp)?|strand|width|locus|"
    r"(gene_)?description|(gene_|transcript_)?(bio)?type|transcript_ids?(_s)?|entrez(_?gene)?(_?id)?|hgnc_id|band|"
    r"gc(_content)?|source|refseq.*|uniprot.*|havana.*|level|tag|ccds(id)?|exons?|karyotype.*|(gene_)?class"
)
_RESULTS = {"log2foldchange", "logfc", "log2fc", "pvalue", "p_value", "padj", "adj_p_val", "fdr", "basemean", "lfcse"}
_SUMMARY_ROWS = re.compile(r"N_(unmapped|multimapping|noFeature|ambiguous)|__\w+")
_BAM = re.compile(r"(\.sorted|\.markdup|\.dedup|[._]?Aligned\.sortedByCoord\.out|[._]?Aligned\.out)*\.(bam|sam|cram)$")
_SURE, _CERTAIN, _LONG = 0.25, 0.75, 5


@dataclass
class Layout:
    """Expression as samples (or cells) x genes, with the annotation of both and what was found out.

    `counts` are estimated counts beside values in TPM, as quantifiers give both.
    """

    values: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    counts: np.ndarray | None = None


def normalise(head: str) -> str:
    """A header cell in lower case, with underscores for everything but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", head.lower()).strip("_")


def lay_out(cells: Cells, name: str, stem: str, genes: str = "auto") -> Layout:
    """Find genes and samples in the cells of a table.

    Parameters
    ----------
    cells
        As read.
    name, stem
        Name of the file for messages, and the name of the sample where there is one column without a header.
    genes
        ``"rows"``, ``"columns"``, or ``"auto"``: told by the names.
    """
    notes = list(cells.notes)
    heads, table = _with_header(cells, name, stem, notes)
    plain = [normalise(head) for head in heads]
    if len(set(plain) & _RESULTS) >= 2:
        raise ValueError(
            f"{name} holds results of a test of differential expression (columns {', '.join(heads[:8])}), not "
            "expression. Pass the table of counts, TPM or CPM of every sample."
        )
    table, heads, plain = _without_empty(table, heads, plain, notes)
    text = [i for i in range(len(heads)) if not looks_numeric(table.iloc[:, i]) or _names_rows(i, plain, heads)]
    as_rows = _genes_are_rows(table, heads, plain, text, name, genes, notes)
    lay = _genes_as_rows if as_rows else _genes_as_columns
    return lay(table, heads, plain, text, name, notes)


def _with_header(cells: Cells, name: str, stem: str, notes: list[str]) -> tuple[list[str], pd.DataFrame]:
    """Names of the columns and the rows below them; a first line of data becomes a row again."""
    first, rows = [cell.strip().strip("'") for cell in cells.first], cells.rows
    known = normalise(first[0])
    numbers = [cell for cell in first[1:] if cell]
    if cells.is_header or not numbers or not all(map(is_number, numbers)):
        return first, rows
    if (
        not known
        or known in _SAMPLE_HEADS | _SYMBOL_HEADS | _ID_HEADS
        or (_GENE_HEADS.fullmatch(known) and not gene_likeness([first[0]]))
    ):
        return first, rows  # samples may be called 1, 2, 3
    is_summary = bool(_SUMMARY_ROWS.fullmatch(first[0]))
    if not is_summary and gene_likeness(rows[0].tolist()) >= _SURE and not gene_likeness([first[0]]):
        return first, rows
    if not is_summary and not gene_likeness([first[0]]):
        raise ValueError(
            f"{name}: cannot tell whether the first line ({', '.join(first[:4])}, ...) is a header. Name the first "
            "column 'gene' or 'sample' in a header line."
        )
    top = pd.DataFrame([first], columns=rows.columns)
    rows = rows.copy()
    for column in rows.columns:
        if pd.api.types.is_numeric_dtype(rows[column]):
            number = pd.to_numeric(top[column], errors="coerce")
            if number.notna().all():
                top[column] = number
            else:  # in another notation than the rows below, which `to_numbers` understands or refuses
                rows[column] = rows[column].astype(str)
    count = len(first) - 1
    notes.append("no header line" + (f"; samples are called sample_1 to sample_{count}" if count > 1 else ""))
    heads = ["", stem] if count == 1 else ["", *(f"sample_{i}" for i in range(1, count + 1))]
    return heads, pd.concat([top, rows], ignore_index=True)


def _names_rows(i: int, plain: list[str], heads: list[str]) -> bool:
    """Whether a column of numbers holds names or annotation all the same."""
    if i == 0 and (not heads[0] or plain[0] in _SAMPLE_HEADS or _GENE_HEADS.fullmatch(plain[0])):
        return True
    return bool(_ANNOTATION.fullmatch(plain[i])) or plain[i] in _LENGTHS | _ID_HEADS | _SYMBOL_HEADS


def _without_empty(table, heads, plain, notes):
    """Without columns that hold nothing, which Excel leaves, and without row numbers."""
    keep = []
    for i, head in enumerate(heads):
        column = table.iloc[:, i]
        if not head and i > 0 and column.dtype == object and (column.astype(str).str.strip() == "").all():
            continue
        keep.append(i)
    first = table.iloc[:, keep[0]].astype(str).str.strip()
    numbers = first.str.fullmatch(r"\d+")
    if len(keep) > 2 and not heads[keep[0]] and numbers.all():
        number, second = first.astype(int), table.iloc[:, keep[1]]
        if (np.diff(number) == 1).all() and number.iloc[0] in (0, 1) and not looks_numeric(second):
            notes.append("row numbers in the first column left out")
            keep = keep[1:]
    return table.iloc[:, keep], [heads[i] for i in keep], [plain[i] for i in keep]


def _genes_are_rows(table, heads, plain, text, name, genes, notes) -> bool:
    if genes in ("rows", "columns"):
        return genes == "rows"
    columns = [head for i, head in enumerate(heads) if i not in text]
    likeness = gene_likeness(columns)
    per_row = max((gene_likeness(table.iloc[:, i].astype(str).tolist()) for i in text), default=0.0)
    n_rows, n_columns = len(table), len(columns)
    as_rows = per_row > likeness
    is_short = _LONG * (n_rows if as_rows else n_columns) <= (n_columns if as_rows else n_rows)
    sure = _CERTAIN if is_short else _SURE  # a few samples may be called as genes are
    if max(per_row, likeness) >= sure and max(per_row, likeness) > 1.5 * min(per_row, likeness):
        notes.append(f"genes are the {'rows' if as_rows else 'columns'}")
        return as_rows
    head = plain[text[0]] if text else ""
    if head in _SAMPLE_HEADS:
        notes.append(f"genes are the columns, as the column {heads[text[0]]!r} says")
        return False
    if head and _GENE_HEADS.fullmatch(head) and head not in ("id", "name", "names", "ids"):
        notes.append(f"genes are the rows, as the column {heads[text[0]]!r} says")
        return True
    if max(n_rows, n_columns) >= _LONG * min(n_rows, n_columns):
        as_rows = n_rows > n_columns
        notes.append(f"the names are no known genes; the longer side, the {'rows' if as_rows else 'columns'}, is taken")
        return as_rows
    raise ValueError(
        f"{name}: cannot tell whether rows ({list(table.iloc[:3, 0].astype(str))}, ...) or columns ({columns[:3]}, "
        "...) are genes. Say so with genes='rows' or genes='columns'."
    )


def _genes_as_rows(table, heads, plain, text, name, notes) -> Layout:
    if not text:
        raise ValueError(f"{name} has no column with names of genes; its columns are {heads[:6]}. Add one.")
    at = _name_column(table, plain, text)
    index = pd.Index([str(gene).strip().strip("'") for gene in table.iloc[:, at]])
    var = pd.DataFrame(index=index)
    dropped = []
    for i in text:
        if i == at:
            continue
        column = table.iloc[:, i]
        if plain[i] in _LENGTHS:
            if "length" not in var:
                var["length"] = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
                notes.append(f"{heads[i]!r} is kept as var['length']")
        elif plain[i] in _ID_HEADS | _SYMBOL_HEADS:
            key = "gene_name" if plain[i] in _SYMBOL_HEADS else "gene_id"
            var[key] = column.astype(str).to_numpy()
            notes.append(f"{heads[i]!r} is kept as var[{key!r}]")
        else:
            dropped.append(heads[i] or f"column {i + 1}")
    if dropped:
        notes.append(f"no samples: {', '.join(dropped[:8])}")
    samples = [i for i in range(len(heads)) if i not in text]
    if not samples:
        raise ValueError(f"{name} has no column of numbers, expected one per sample; its columns are {heads[:6]}.")
    names = _sample_names([heads[i] for i in samples], name, notes)
    keep = ~(index.str.fullmatch(_SUMMARY_ROWS) | index.str.lower().isin(["", "na", "nan"]))
    if not keep.all():
        notes.append(f"{(~keep).sum()} rows left out that are no genes: {', '.join(index[~keep].unique()[:5])}")
    values, found = to_numbers(table.iloc[keep.nonzero()[0], samples], index[keep], names, name)
    return _checked(Layout(values.T, pd.DataFrame(index=names), var[keep], [*notes, *found]), name)


def _name_column(table: pd.DataFrame, plain: list[str], text: list[int]) -> int:
    """The column of names that look most like genes, each once; the first of equals."""
    candidates = [i for i in text if plain[i] not in _LENGTHS and not _ANNOTATION.fullmatch(plain[i])] or text[:1]

    def rank(i: int) -> tuple[float, bool]:
        names = table.iloc[:, i].astype(str)
        return round(gene_likeness(names.tolist()), 1), names.is_unique

    return max(candidates, key=rank) if len(candidates) > 1 else candidates[0]


def _genes_as_columns(table, heads, plain, text, name, notes) -> Layout:
    del plain
    at = text[0] if text else None
    if at is None:
        notes.append("samples have no names; they are called sample_1, sample_2, ...")
        names = pd.Index([f"sample_{i}" for i in range(1, len(table) + 1)])
    else:
        names = _sample_names(table.iloc[:, at].astype(str).str.strip().tolist(), name, notes)
    others = [i for i in text if i != at]
    obs = pd.DataFrame({heads[i]: table.iloc[:, i].to_numpy() for i in others}, index=names)
    if others:
        notes.append(f"no genes, kept in obs: {', '.join(obs.columns[:8])}")
    genes = [i for i in range(len(heads)) if i not in text]
    index = pd.Index([heads[i] for i in genes])
    if not genes:
        raise ValueError(f"{name} has no column of numbers, expected one per sample; its columns are {heads[:6]}.")
    values, found = to_numbers(table.iloc[:, genes], names, index, name)
    return _checked(Layout(values, obs, pd.DataFrame(index=index), [*notes, *found]), name)


def _sample_names(names: list[str], name: str, notes: list[str]) -> pd.Index:
    """Names of samples, those of alignment files without folder and ending; each must be there once."""
    short = [_BAM.sub("", PurePath(sample).name) for sample in names]
    if short != names and all(_BAM.search(sample) for sample in names) and len(set(short)) == len(names):
        notes.append("samples are named by their alignment files")
        names = short
    index = pd.Index([sample if sample else f"column_{i}" for i, sample in enumerate(names, 1)])
    twice = index[index.duplicated()].unique()
    if len(twice):
        raise ValueError(f"{name} names samples more than once: {listed(map(repr, twice), 3)}. Rename them.")
    return index


def _checked(layout: Layout, name: str) -> Layout:
    n_samples, n_genes = layout.values.shape
    if not (n_samples and n_genes):
        raise ValueError(f"{name} has {n_samples} samples and {n_genes} genes; expected one of each at least.")
    twice = int(layout.var.index.duplicated().sum())
    if twice:
        layout.notes.append(f"{twice} names of genes come again; hp.pp.map_genes adds them up")
    return layout
