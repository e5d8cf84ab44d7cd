"""Files with one sample each, as salmon, kallisto, RSEM, StringTie and STAR write them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ._layout import Layout, normalise
from ._text_tables import Cells, to_numbers

_COUNTS = ("numreads", "est_counts", "expected_count", "count", "counts")
_GENE = ("gene_id", "name", "target_id")
_GENERIC = re.compile(r"(abundance|quant(\.genes)?|genes|isoforms|gene_abund)$", re.IGNORECASE)
_ENDINGS = re.compile(r"[._]?(ReadsPerGene\.out|genes|isoforms|gene_abund|quant\.genes|abundance|htseq|counts?)$")
_TRANSCRIPT = re.compile(r"ENS[A-Z]*T\d{11}|[NX][MR]_\d+|FBtr\d{7}")
_GENE_IN_NAME = re.compile(r"(?<![A-Z0-9])ENS[A-Z]*G\d{11}")


def sample_name(path: Path) -> str:
    """Name of the sample of a file: its own, or its folder's where tools give all files one name."""
    stem = re.sub(r"\.(csv|tsv|txt|tab|sf|results)$", "", re.sub(r"\.gz$", "", path.name))
    if _GENERIC.fullmatch(stem):
        return path.absolute().parent.name
    return _ENDINGS.sub("", stem) or stem


def quantified(cells: Cells, path: Path) -> Layout | None:
    """One sample from the file of a quantifier; None for any other table."""
    star = _star(cells, path)
    if star is not None:
        return star
    plain = [normalise(head) for head in cells.first]
    if "tpm" not in plain or not set(plain) & {*_COUNTS, "fpkm"} or len(plain) > 12:
        return None
    names, by_transcript, notes = _gene_names(cells, plain, path)
    counted = next((head for head in _COUNTS if head in plain), None)
    wanted = ["tpm", *([counted] if counted else [])]
    columns = [plain.index(head) for head in wanted]
    values, _ = to_numbers(cells.rows[columns], names, pd.Index([cells.first[i] for i in columns]), path.name)
    table = pd.DataFrame(values, index=names, columns=["tpm", "counts"][: len(wanted)])
    if "length" in plain and not by_transcript:
        table["length"] = pd.to_numeric(cells.rows[plain.index("length")], errors="coerce").to_numpy()
    if by_transcript:
        table = table.groupby(level=0, sort=False).sum()
        notes.append(f"{len(names)} transcripts added up to {len(table)} genes")
    notes.append("X holds TPM" + (f", layers['counts'] {cells.first[columns[1]]}" if counted else ""))
    var = table.drop(columns=["tpm", "counts"], errors="ignore")
    obs = pd.DataFrame(index=[sample_name(path)])
    counts = table[["counts"]].to_numpy().T if counted else None
    return Layout(table[["tpm"]].to_numpy().T, obs, var, [*cells.notes, *notes], counts)


def _gene_names(cells: Cells, plain: list[str], path: Path) -> tuple[pd.Index, bool, list[str]]:
    """Names of the genes, and whether rows are transcripts."""
    at = next((plain.index(head) for head in _GENE if head in plain), 0)
    names = cells.rows[at].astype(str)
    by_transcript = "transcript_id" in plain and "gene_id" in plain
    if names.head(500).str.contains(_TRANSCRIPT).mean() > 0.5:
        genes = names.str.extract(f"({_GENE_IN_NAME.pattern})", expand=False)
        if genes.isna().any():
            raise ValueError(
                f"{path.name} holds transcripts ({names.iloc[0]!r}), not genes. Add them up to genes with tximport, or "
                "run the quantifier with a table of transcripts and genes (salmon quant -g)."
            )
        return pd.Index(genes), True, []
    return pd.Index(names.tolist()), by_transcript, []


def _star(cells: Cells, path: Path) -> Layout | None:
    """STAR's ReadsPerGene: no header, rows N_..., then counts for three kinds of strands; the unstranded are taken."""
    if cells.first[0] != "N_unmapped" or len(cells.first) != 4:
        return None
    rows = cells.rows[~cells.rows[0].str.startswith("N_")]
    values, _ = to_numbers(rows[[1, 2, 3]], pd.Index(rows[0]), pd.Index(["unstranded", "first", "second"]), path.name)
    first, second = values[:, 1].sum(), values[:, 2].sum()
    notes = ["STAR's ReadsPerGene: its unstranded counts, without the rows N_..."]
    if max(first, second) > 5 * max(min(first, second), 1):
        notes.append("the library looks stranded: most reads lie on one strand")
    var = pd.DataFrame(index=pd.Index(rows[0].tolist()))
    return Layout(values[:, :1].T, pd.DataFrame(index=[sample_name(path)]), var, notes)


def files_of(folder: Path) -> list[Path]:
    """Files of quantifiers in a folder, or in the folders inside it; the first kind that is there."""
    for pattern in (
        "*ReadsPerGene.out.tab*", "*.genes.results*", "*/quant.genes.sf*", "*/abundance.tsv*", "*/quant.sf*",
        "*gene_abund.tab*", "*/*ReadsPerGene.out.tab*", "*/*.genes.results*",
    ):  # fmt: skip
        if found := sorted(folder.glob(pattern)):
            return found
    listed = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise ValueError(
        f"{folder} is a folder with {listed}; expected a zarr folder, or files such as *ReadsPerGene.out.tab, "
        "*.genes.results, */quant.genes.sf or */abundance.tsv. Pass the table itself."
    )


def joined(layouts: list[Layout], names: list[str]) -> Layout:
    """Samples of several files, which must have the same genes."""
    first = layouts[0]
    for layout, name in zip(layouts, names, strict=True):
        if not first.var.index.equals(layout.var.index):
            if not first.var.index.is_unique or set(first.var.index) != set(layout.var.index):
                raise ValueError(
                    f"{name} has other genes than {names[0]} ({layout.var.shape[0]} and {first.var.shape[0]}): "
                    "quantify all samples with one annotation."
                )
            order = layout.var.index.get_indexer(first.var.index)
            layout.values, layout.var = layout.values[:, order], layout.var.iloc[order]
            if layout.counts is not None:
                layout.counts = layout.counts[:, order]
    obs = pd.concat([layout.obs for layout in layouts])
    if obs.index.has_duplicates:
        raise ValueError(f"Two files are of sample {obs.index[obs.index.duplicated()][0]!r}. Rename one.")
    counts = [layout.counts for layout in layouts]
    whole = np.vstack(counts) if all(count is not None for count in counts) else None
    return Layout(np.vstack([layout.values for layout in layouts]), obs, first.var, first.notes, whole)
