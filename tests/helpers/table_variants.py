"""Real-looking variants of one planted table, by name: those that are read, and those that are refused."""

import gzip
import io

import numpy as np
import pandas as pd

SYMBOLS = ["CD3E", "CD19", "ACTB", "MS4A1", "NKG7", "LYZ", "CD8A", "HLA-A"]
ENSEMBL = [f"ENSG{number:011d}" for number in (198851, 177455, 75624, 156738, 105374, 90382, 153563, 206503)]
SAMPLES = ["s1", "s2", "s3"]
COUNTS = np.random.default_rng(0).poisson(3000, (8, 3)) + np.arange(8)[:, None]
LINEAR = COUNTS / 8 + 0.0625


def table(values=COUNTS, names=SYMBOLS, samples=SAMPLES, *, sep="\t", head="gene", form=str, end="\n", quote="") -> str:
    """Genes as rows."""
    lines = [sep.join([head, *(quote + name + quote for name in samples)])]
    lines += [sep.join([quote + name + quote, *map(form, row)]) for name, row in zip(names, values, strict=True)]
    return end.join(lines) + end


def turned(values=COUNTS, names=SYMBOLS, samples=SAMPLES, *, sep=",", head="sample", extra=()) -> str:
    """Genes as columns; `extra` are (head, one cell per sample) beside the names."""
    lines = [sep.join([head, *(key for key, _ in extra), *names])]
    for i, sample in enumerate(samples):
        lines.append(sep.join([sample, *(cells[i] for _, cells in extra), *map(str, values[:, i])]))
    return "\n".join(lines) + "\n"


def annotated(columns: dict, head: str, values=COUNTS, names=ENSEMBL, samples=SAMPLES) -> str:
    """Genes as rows, with columns of annotation between their names and the samples."""
    lines = ["\t".join([head, *columns, *samples])]
    for i, name in enumerate(names):
        lines.append("\t".join([name, *(str(cells[i]) for cells in columns.values()), *map(str, values[i])]))
    return "\n".join(lines) + "\n"


def comma(value) -> str:
    return str(value).replace(".", ",")


def rows_of(values) -> list[list]:
    return [[name, *map(float, row)] for name, row in zip(SYMBOLS, values, strict=True)]


def sheet(rows: list[list]) -> bytes:
    """An Excel file; without openpyxl its variant is left out."""
    try:
        import openpyxl
    except ImportError:
        return b""
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(stream)
    return stream.getvalue()


def one_sample(kind: str) -> str:
    """The first sample as quantifiers write it."""
    tpm, counts = LINEAR[:, 0], COUNTS[:, 0]
    heads = {"rsem": "gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM"}
    heads["salmon"] = "Name\tLength\tEffectiveLength\tTPM\tNumReads"
    rows = {
        "rsem": [f"{g}\tENST1\t1000\t900\t{n}\t{x}\t{x / 2}" for g, n, x in zip(ENSEMBL, counts, tpm, strict=True)],
        "salmon": [f"{g}\t1000\t900\t{x}\t{n}" for g, n, x in zip(ENSEMBL, counts, tpm, strict=True)],
        "star": [
            *(f"{name}\t9\t9\t9" for name in ("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous")),
            *(f"{g}\t{n}\t{n // 2}\t{n - n // 2}" for g, n in zip(ENSEMBL, counts, strict=True)),
        ],
        "htseq": [
            *(f"{g}\t{n}" for g, n in zip(ENSEMBL, counts, strict=True)),
            "__no_feature\t9",
            "__ambiguous\t9",
        ],
    }
    return "\n".join([*([heads[kind]] if kind in heads else []), *rows[kind]]) + "\n"


LOCUS = {
    "Chr": ["chr1;chr1"] * 8,
    "Start": ["11;20"] * 8,
    "End": ["15;30"] * 8,
    "Strand": ["+;+"] * 8,
    "Length": range(1000, 1008),
}
COMMENT = '# Program:featureCounts v2.0.1; Command:"featureCounts" "-a" "genes.gtf" "-o" "counts.txt"\n'
STAR_ROWS = {"N_unmapped": 9, "N_multimapping": 9, "N_noFeature": 9, "N_ambiguous": 9}
UNITS = {"counts": COUNTS, "linear": LINEAR}

# file name, content, which values, which names of genes
READ = {
    "csv": ("a.csv", table(sep=","), "counts", SYMBOLS),
    "tsv": ("a.tsv", table(), "counts", SYMBOLS),
    "tabs in a file called csv": ("a.csv", table(), "counts", SYMBOLS),
    "semicolons": ("a.csv", table(sep=";"), "counts", SYMBOLS),
    "bars": ("a.txt", table(sep="|"), "counts", SYMBOLS),
    "spaces": ("a.txt", table(sep=" "), "counts", SYMBOLS),
    "aligned with many spaces": ("a.txt", table(sep="    "), "counts", SYMBOLS),
    "decimal points": ("a.csv", table(LINEAR, sep=","), "linear", SYMBOLS),
    "decimal commas and semicolons": ("a.csv", table(LINEAR, sep=";", form=comma), "linear", SYMBOLS),
    "decimal commas and tabs": ("a.tsv", table(LINEAR, form=comma), "linear", SYMBOLS),
    "decimal commas, quoted": ("a.csv", table(LINEAR, sep=",", form=lambda x: f'"{comma(x)}"'), "linear", SYMBOLS),
    "dots for thousands, decimal commas": (
        "a.csv",
        table(LINEAR * 1000, sep=";", form=lambda x: f"{x:,.4f}".translate(str.maketrans(",.", ".,"))),
        LINEAR * 1000,
        SYMBOLS,
    ),
    "commas for thousands": ("a.tsv", table(COUNTS * 1000, form=lambda x: f"{x:,}"), COUNTS * 1000, SYMBOLS),
    "spaces for thousands": ("a.tsv", table(form=lambda x: f"{x:,}".replace(",", " ")), "counts", SYMBOLS),
    "exponents": ("a.tsv", table(LINEAR, form="{:.12e}".format), "linear", SYMBOLS),
    "names in quotes": ("a.csv", table(sep=",", quote='"'), "counts", SYMBOLS),
    "header of R, one name short": ("a.txt", table(sep=" ", head="", quote='"').lstrip(), "counts", SYMBOLS),
    "header without a name": ("a.csv", table(sep=",", head=""), "counts", SYMBOLS),
    "lines end as in Windows": ("a.csv", table(sep=",", end="\r\n"), "counts", SYMBOLS),
    "lines end as in old Macs": ("a.csv", table(sep=",", end="\r"), "counts", SYMBOLS),
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + table(sep=",").encode(), "counts", SYMBOLS),
    "UTF-16 from Excel": ("a.txt", table().encode("utf-16"), "counts", SYMBOLS),
    "Windows-1252": ("a.csv", table(sep=",", head="Gène").encode("cp1252"), "counts", SYMBOLS),
    "gzip": ("a.csv.gz", gzip.compress(table(sep=",").encode()), "counts", SYMBOLS),
    "gzip without its ending": ("a.csv", gzip.compress(table(sep=",").encode()), "counts", SYMBOLS),
    "empty lines": ("a.csv", "\n\n" + table(sep=",").replace("\n", "\n\n") + "\n", "counts", SYMBOLS),
    "lines of commas from Excel": ("a.csv", table(sep=",") + ",,,\n,,,\n", "counts", SYMBOLS),
    "empty columns from Excel": ("a.csv", table(sep=",").replace("\n", ",,\n"), "counts", SYMBOLS),
    "delimiter at the ends": ("a.tsv", table().replace("\n", "\t\n"), "counts", SYMBOLS),
    "title above": ("a.csv", "Table S3. TPM of all samples,,,\n,,,\n" + table(sep=","), "counts", SYMBOLS),
    "title above words with spaces between": ("a.txt", "Some title\n" + table(sep=" ", quote='"'), "counts", SYMBOLS),
    "remark with the delimiter": ("a.csv", "# mine, and, not, yours\n" + table(sep=","), "counts", SYMBOLS),
    "decimal commas and spaces": ("a.txt", table(LINEAR, sep=" ", form=comma), "linear", SYMBOLS),
    "comments": ("a.tsv", "# made by me\n# on a Monday\n" + table(), "counts", SYMBOLS),
    "header behind #": ("a.tsv", table(head="#gene"), "counts", SYMBOLS),
    "GCT": (
        "a.gct",
        "#1.2\n8\t3\n" + annotated({"Description": SYMBOLS}, "Name"),
        "counts",
        ENSEMBL,
    ),
    "row numbers from pandas": (
        "a.csv",
        pd.DataFrame(COUNTS, columns=SAMPLES).assign(gene=SYMBOLS)[["gene", *SAMPLES]].to_csv(),
        "counts",
        SYMBOLS,
    ),
    "genes as columns": ("a.csv", turned(), "counts", SYMBOLS),
    "genes as columns, nothing called": ("a.csv", turned(head=""), "counts", SYMBOLS),
    "genes as columns, with annotation": (
        "a.csv",
        turned(extra=[("condition", ["ill", "well", "ill"])]),
        "counts",
        SYMBOLS,
    ),
    "names after the numbers": (
        "a.csv",
        pd.DataFrame(COUNTS, columns=SAMPLES).assign(symbol=SYMBOLS).to_csv(index=False),
        "counts",
        SYMBOLS,
    ),
    "Ensembl ids": ("a.csv", table(names=ENSEMBL, sep=","), "counts", ENSEMBL),
    "Ensembl ids with versions": (
        "a.csv",
        table(names=[f"{name}.12" for name in ENSEMBL], sep=","),
        "counts",
        [f"{name}.12" for name in ENSEMBL],
    ),
    "decorated ids": (
        "a.tsv",
        table(names=[f"{a}|{b}" for a, b in zip(SYMBOLS, ENSEMBL, strict=True)]),
        "counts",
        [f"{a}|{b}" for a, b in zip(SYMBOLS, ENSEMBL, strict=True)],
    ),
    "featureCounts": (
        "counts.txt",
        COMMENT + annotated(LOCUS, "Geneid", samples=[f"/data/run/{name}.sorted.bam" for name in SAMPLES]),
        "counts",
        ENSEMBL,
    ),
    "nf-core and salmon": (
        "salmon.merged.gene_tpm.tsv",
        annotated({"gene_name": SYMBOLS}, "gene_id", LINEAR),
        "linear",
        ENSEMBL,
    ),
    "tximport": ("tximport.csv", table(LINEAR, ENSEMBL, sep=",", head='""', quote='"'), "linear", ENSEMBL),
    "BioMart": (
        "a.tsv",
        annotated(
            {"Gene name": SYMBOLS, "Chromosome/scaffold name": ["X"] * 8, "Gene start (bp)": range(8)}, "Gene stable ID"
        ),
        "counts",
        ENSEMBL,
    ),
    "merged STAR or HTSeq": (
        "a.tsv",
        table() + "".join(f"{key}\t9\t9\t9\n" for key in [*STAR_ROWS, "__no_feature", "__ambiguous"]),
        "counts",
        SYMBOLS,
    ),
    "no header": ("a.tsv", table().split("\n", 1)[1], "counts", SYMBOLS),
    "xlsx": ("a.xlsx", sheet([["gene", *SAMPLES], *rows_of(COUNTS)]), "counts", SYMBOLS),
    "xlsx with a title and an empty row": (
        "a.xlsx",
        sheet([["Table 1: TPM of three samples"], [], ["Gene", *SAMPLES], *rows_of(LINEAR)]),
        "linear",
        SYMBOLS,
    ),
    "xlsx in a file called csv": ("a.csv", sheet([["gene", *SAMPLES], *rows_of(COUNTS)]), "counts", SYMBOLS),
    "Excel's dates for genes": (
        "a.csv",
        table(names=[*SYMBOLS[:-1], "7-Sep"], sep=","),
        "counts",
        [*SYMBOLS[:-1], "7-Sep"],
    ),
    "previous symbols": (
        "a.csv",
        table(names=[*SYMBOLS[:-1], "TMEM173"], sep=","),
        "counts",
        [*SYMBOLS[:-1], "TMEM173"],
    ),
    "Entrez id in brackets": (
        "a.csv",
        table(names=[f"{name} ({i + 1})" for i, name in enumerate(SYMBOLS)], sep=","),
        "counts",
        [f"{name} ({i + 1})" for i, name in enumerate(SYMBOLS)],
    ),
    "Windows-1252, semicolons and decimal commas": (
        "a.csv",
        table(LINEAR, sep=";", form=comma, head="Gène", end="\r\n").encode("cp1252"),
        "linear",
        SYMBOLS,
    ),
    "numbers in quotes": ("a.csv", table(sep=",", form=lambda x: f'"{x}"'), "counts", SYMBOLS),
    "samples called 1, 2, 3": ("a.csv", table(sep=",", samples=["1", "2", "3"]), "counts", SYMBOLS),
    "RSEM, one sample": ("s1.genes.results", one_sample("rsem"), LINEAR[:, :1], ENSEMBL),
    "salmon, one sample": ("s1.sf", one_sample("salmon"), LINEAR[:, :1], ENSEMBL),
    "STAR, one sample": ("s1.ReadsPerGene.out.tab", one_sample("star"), COUNTS[:, :1], ENSEMBL),
    "HTSeq, one sample": ("s1.htseq.txt", one_sample("htseq"), COUNTS[:, :1], ENSEMBL),
}
SAMPLES_OF = {"no header": ["sample_1", "sample_2", "sample_3"], "samples called 1, 2, 3": ["1", "2", "3"]}
# what the names become with `map_genes`, where it is not the symbols of the planted table
MAPPED = {"Excel's dates for genes": [*SYMBOLS[:-1], "SEPTIN7"], "previous symbols": [*SYMBOLS[:-1], "STING1"]}

REFUSED = {
    "nothing": ("a.csv", b"", "empty"),
    "blank": ("a.csv", "\n \n", "is empty"),
    "header only": ("a.csv", "gene,s1,s2\n", "one line only"),
    "one column": ("a.csv", "CD3E\nCD19\n", "one field per line"),
    "truncated gzip": ("a.csv.gz", gzip.compress(table(sep=",").encode())[:60], "truncated gzip"),
    "truncated line": ("a.csv", table(sep=",")[:-12], "line 9 has . fields, the others have 4"),
    "mixed delimiters": ("a.csv", table(sep=",").replace("CD8A,", "CD8A;").replace("HLA-A,", "HLA-A;"), "line 8 has"),
    "two tables": (
        "a.csv",
        table(sep=",") + table(sep=",", samples=["x"], values=COUNTS[:, :1]),
        "line [0-9]+ has [24]",
    ),
    "second header": ("a.csv", table(sep=",").replace("\n", "\ntype,ill,well,ill\n", 1), "second header"),
    "text among numbers": ("a.csv", table(sep=",").replace(str(COUNTS[1, 1]), "many"), "'many' in row 'CD19'.*'s2'"),
    "NA": ("a.csv", table(sep=",").replace(str(COUNTS[1, 1]), "NA"), "1 cells are empty or NA.*'CD19'.*'s2'"),
    "empty cell": ("a.csv", table(sep=",").replace(str(COUNTS[1, 1]), ""), "1 cells are empty or NA"),
    "infinite": ("a.csv", table(sep=",").replace(str(COUNTS[1, 1]), "inf"), "not finite|no numbers"),
    "one sample twice": ("a.csv", table(sep=",", samples=["s1", "s2", "s1"]), "'s1'.*Rename"),
    "comma for decimals or thousands": ("a.tsv", table(form=lambda x: f"{x:,}"), "may mean"),
    "dot for decimals or thousands": (
        "a.tsv",
        table(np.where(COUNTS > 3000, COUNTS, 7), form=lambda x: f"{x:,}".replace(",", ".")),
        "may mean",
    ),
    "two decimal signs": (
        "a.tsv",
        table(LINEAR).replace(str(LINEAR[0, 0]), comma(LINEAR[0, 0])),
        "decimal commas.*points",
    ),
    "results of a test": ("a.csv", "gene,baseMean,log2FoldChange,padj\nCD3E,1,2,3\nCD19,1,2,3\n", "differential"),
    "transcripts": (
        "quant.sf",
        "Name\tLength\tEffectiveLength\tTPM\tNumReads\nENST00000361763.9\t10\t9\t1\t2\nENST00000361764.9\t10\t9\t1\t2\n",
        "transcripts.*tximport",
    ),
    "no names of genes": ("a.csv", "x,y\n1,2\n3,4\n", "cannot tell"),
    "web page": ("a.csv", "<!DOCTYPE html>\n<html>Not found</html>", "web page"),
    "JSON": ("a.csv", '{"error": 404}', "JSON"),
    "Git LFS": ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "old Excel": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old Excel"),
    "R object": ("a.rds", b"RDX3\n" + bytes(50), "R object"),
    "binary": ("a.csv", bytes(range(256)), "binary"),
    "zip": ("a.zip", b"PK\x03\x04" + bytes(60), "zip archive"),
    "damaged h5ad": ("a.h5ad", b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged or truncated HDF5"),
}
