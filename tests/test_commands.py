"""Every `hpvade ...` of README and documentation: its options exist, and the ways that users are shown run."""

import json
import re
import shlex
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import typer
from mudata import MuData
from typer.testing import CliRunner

import hpvade as hp
from hpvade._cli import _errors, app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
RUN = [
    "README.md",
    "docs/user_guide/command_line.md",
    "docs/user_guide/files.md",
    "docs/user_guide/hpvade.md",
]  # all of their blocks, in order
SLOW = {"demo"}  # tests/_cli/test_demo.py runs it


def commands(page: Path) -> tuple[list[str], list[str]]:
    """Command lines of the blocks of a page, and those in its sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = [match["body"] for match in FENCE.finditer(text) if match["language"] in ("text", "bash", "console", "sh")]
    lines = [line.removeprefix("$ ") for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    lines = [part.strip() for line in lines for part in line.split("&&")]
    sentences = re.findall(r"(?<!`)`(hpvade [^`]+)`(?!`)", FENCE.sub("", text))
    return [line for line in lines if line.startswith("hpvade ")], sentences


def parse(line: str) -> list[str]:
    """Resolve the command and parse its options, without running it; the arguments."""
    arguments = shlex.split(line, comments=True)[1:]
    command, rest, context = typer.main.get_command(app), arguments, None
    while hasattr(command, "commands"):
        context = command.make_context("hpvade", rest[:1], parent=context, resilient_parsing=True)
        assert rest and rest[0] in command.commands, f"{line}: no command {rest[:1]}"
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(command.name, rest, parent=context)
    return arguments


IN_BLOCKS = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands(page)[0]]
IN_SENTENCES = sorted({line for page in PAGES for line in commands(page)[1]})


def test_commands_are_found():
    assert len(IN_BLOCKS) > 25 and len(IN_SENTENCES) > 8


@pytest.mark.parametrize("line", sorted({line for _, line in IN_BLOCKS}))
def test_a_command_of_a_block_has_these_options(line):
    parse(line)


@pytest.mark.parametrize("line", IN_SENTENCES)
def test_a_command_of_a_sentence_exists(line):
    words = [word for word in shlex.split(line)[1:] if not word.isupper() and not re.match(r"[<.]|DIR/", word)]
    command, known = typer.main.get_command(app), {"--help", "--version"}
    while words and hasattr(command, "commands"):
        if words[0].startswith("--"):
            break
        assert words[0] in command.commands, f"{line}: no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known |= {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if re.fullmatch(r"--?[a-z][a-z_-]*", word)} <= known, line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small real inputs under the names of the documentation."""
    folder = tmp_path_factory.mktemp("docs")
    adata, bulk = hp.datasets.pbmc_reference(), hp.datasets.pbmc_bulk()
    adata = adata[::3, np.argsort(-np.asarray(adata.X.mean(axis=0)).ravel())[:4000]].copy()
    ids = hp.pp.map_genes(bulk, "ensembl", duplicates="first")
    ids = ids[:, ids.var_names.str.startswith("ENSG")].to_df().T
    ids.index = [f"{name}.{i % 20}" for i, name in enumerate(ids.index)]
    for name in ("quant.tsv", "salmon.merged.gene_tpm.tsv"):
        ids.to_csv(folder / name, sep="\t", index_label="gene_id")
    bulk.to_df().T.to_csv(folder / "bulk.tsv", sep="\t", index_label="gene")
    bulk.write_h5ad(folder / "bulk.h5ad")
    truth = bulk.obsm["proportions"]
    names = truth.rename(columns={"T": "CD4 T"}).assign(**{"CD8 T": 0.0, "Platelet": 0.0})
    names.to_csv(folder / "truth.csv", index_label="sample")
    groups = pd.DataFrame({"condition": ["ill", "well"] * 4}, index=bulk.obs_names)
    groups.to_csv(folder / "samples.csv", index_label="sample")
    adata.obs["condition"] = np.where(np.arange(adata.n_obs) % 2, "ill", "well")
    adata.obs["library"] = adata.obs["condition"].astype("category")
    adata.obs[["cell_type"]].to_csv(folder / "labels.csv", index_label="barcode")
    adata.write_h5ad(folder / "ref.h5ad")
    for name, cells in (("cells", adata), ("samples", bulk)):
        other = ad.AnnData(np.ones((cells.n_obs, 2), dtype=np.float32), obs=cells.obs[[]])
        MuData({"rna": cells, "protein": other}).write(folder / f"{name}.h5mu")
    for i, name in enumerate(("lab_a", "lab_b")):
        adata[i::2].copy().write_h5ad(folder / f"{name}.h5ad")
    (folder / "filtered_feature_bc_matrix").mkdir()
    write_10x(adata, folder / "filtered_feature_bc_matrix")
    flow = truth.assign(B=3 * truth["B"])
    flow.div(flow.sum(axis=1), axis=0).to_csv(folder / "flow.csv", index_label="sample")
    (folder / "types.json").write_text(json.dumps(bulk.uns["proportions_mapping"]))
    return folder


def write_10x(adata, folder: Path) -> None:
    from scipy.io import mmwrite

    mmwrite(folder / "matrix.mtx", adata.X.T.astype(int))
    pd.DataFrame({"id": adata.var_names, "name": adata.var_names, "type": "Gene Expression"}).to_csv(
        folder / "features.tsv", sep="\t", header=False, index=False
    )
    pd.Series(adata.obs_names).to_csv(folder / "barcodes.tsv", header=False, index=False)


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page, folder, tmp_path, monkeypatch):
    folder = shutil.copytree(folder, tmp_path / "page")  # pages write files of the same names
    monkeypatch.chdir(folder)
    for arguments in (parse(line) for name, line in IN_BLOCKS if name == page):
        if arguments[0] in SLOW:
            continue
        if {"--help", "--epochs"} & set(arguments) == set() and arguments[0] in ("clean", "translate", "augment"):
            arguments += ["--epochs", "1"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"hpvade {shlex.join(arguments)}\n{result.output}"
        for output in (arguments[i + 1] for i, word in enumerate(arguments) if word == "-o"):
            assert (folder / output).exists()


def test_the_page_lists_every_command_and_every_exit_code():
    text = (ROOT / "docs/user_guide/command_line.md").read_text(encoding="utf-8")
    table = text.split("## From files")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) >= set(typer.main.get_command(app).commands)
    codes = re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1].split("## JSON")[0], re.MULTILINE)
    known = [0, _errors.REFUSED, _errors.USAGE, _errors.UNEXPECTED, _errors.STOPPED]
    assert [int(code) for code in codes] == known
