"""CA-10, CA-13, CA-14, CA-21 from the command line."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

import hpvade as hp


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    """Two chunks of planted cells, one file of cells, and the configuration for them."""
    folder = tmp_path_factory.mktemp("chunks")
    adata = hp.datasets.planted_contexts(120, 40, seed=2)
    adata.obs["treated"] = np.arange(120) % 2 == 0
    for i, part in enumerate((adata[:70], adata[70:])):
        sparse.save_npz(folder / f"human_counts_{i}.npz", sparse.csr_matrix(part.X))
        part.obs.to_csv(folder / f"human_metadata_{i}.csv", index=False)
    (folder / "genes.txt").write_text("\n".join(adata.var_names) + "\n")
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def preprocess(run, chunks, target, *more, **kwargs):
    fields = ["--include", "tissue", "--include", "treated"]
    options = ["--data-dir", chunks, "--pattern", "human_metadata_*.csv", "--save-dir", target]
    return run("cycleae", "preprocess", *options, *fields, *more, **kwargs)


def settings(chunks, specs, output, **changes):
    return {
        "data_dir": str(chunks),
        "expr_glob": "human_counts_*.npz",
        "meta_glob": "human_metadata_*.csv",
        "vocab": str(specs / "metadata_vocab.json"),
        "specs": str(specs / "metadata_field_specs.json"),
        "genes": str(chunks / "genes.txt"),
        "output_dir": str(output),
        "latent_dim": 6,
        "num_epochs": 3,
        "batch_size": 32,
        "device": "cpu",
        "nonnegative": False,
    } | changes


def config(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def specs(run, chunks, tmp_path):
    preprocess(run, chunks, tmp_path / "specs")
    return tmp_path / "specs"


def test_pickles_need_a_flag(run, chunks, specs, tmp_path):
    for path in chunks.glob("human_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in tmp_path.glob("human_metadata_*.csv"):
        pd.read_csv(path).to_pickle(path.with_suffix(".pkl"))
    options = ["--data-dir", tmp_path, "--pattern", "human_metadata_*.pkl", "--save-dir", tmp_path / "out"]
    refused = run("cycleae", "preprocess", *options, "--include", "tissue", code=1)
    assert "is a pickle" in refused.stderr and "--allow-pickle" in refused.stderr and not (tmp_path / "out").exists()
    run("cycleae", "preprocess", *options, "--include", "tissue", "--allow-pickle")
    values = settings(tmp_path, specs, tmp_path / "run", num_epochs=1, meta_glob="human_metadata_*.pkl")
    values["genes"] = str(chunks / "genes.txt")
    path = config(tmp_path / "run.yaml", values)
    assert "is a pickle" in run("cycleae", "train", "--config", path, code=1).stderr
    run("cycleae", "train", "--config", path, "--allow-pickle")
    assert (tmp_path / "run" / "model" / "model.json").exists()


def test_ca_13_preprocess_writes_both_files_and_a_dry_run_nothing(run, chunks, tmp_path):
    result = preprocess(run, chunks, tmp_path / "specs", "--dry-run")
    assert "tissue: categorical, 3 values, 100.0% filled, used" in result.stdout and not (tmp_path / "specs").exists()
    (tmp_path / "more.txt").write_text("sex\n\n")
    preprocess(run, chunks, tmp_path / "specs", "--include-file", tmp_path / "more.txt", "--ignore-column", "cell_type")
    specs = json.loads((tmp_path / "specs/metadata_field_specs.json").read_text())
    assert {name for name, spec in specs.items() if spec["using"]} == {"tissue", "treated", "sex"}
    assert "cell_type" not in specs
    vocab = json.loads((tmp_path / "specs/metadata_vocab.json").read_text())
    assert vocab["treated"] == [{"type": "bool", "value": False, "id": 0}, {"type": "bool", "value": True, "id": 1}]
    assert "exists. Choose another" in preprocess(run, chunks, tmp_path / "specs", code=2).stderr
    assert (
        "has no files"
        in run("cycleae", "preprocess", "--data-dir", chunks, "--pattern", "x*", "--save-dir", tmp_path, code=2).stderr
    )


def test_ca_13_what_was_published_needs_no_options(run, tmp_path):
    """Pickles human_metadata_*.pkl, the column _source_file left out, files to preproc/ beside the data."""
    table = pd.DataFrame({"tissue": ["a", "b"], "batch#1": ["x", "y"], "sex": ["f", "m"], "_source_file": ["u", "v"]})
    table.to_pickle(tmp_path / "human_metadata_1.pkl")
    (tmp_path / "more.txt").write_text("# fields\ntissue  # of origin\n\n  #sex\nbatch#1\n")
    options = ["--data-dir", tmp_path, "--include-file", tmp_path / "more.txt", "--allow-pickle"]
    run("cycleae", "preprocess", *options, "--dry-run")
    assert not (tmp_path / "preproc").exists()
    run("cycleae", "preprocess", *options)
    specs = json.loads((tmp_path / "preproc/metadata_field_specs.json").read_text())
    assert {name: spec["using"] for name, spec in specs.items()} == {"tissue": True, "batch#1": True, "sex": False}
    assert (tmp_path / "preproc/metadata_vocab.json").exists()
    run("cycleae", "preprocess", *options, "--dry-run")  # writes nothing, so nothing is in its way


def test_ca_14_train_writes_every_file_and_the_model_answers(run, chunks, specs, tmp_path):
    out = tmp_path / "run"
    run("cycleae", "train", "--config", config(tmp_path / "run.yaml", settings(chunks, specs, out)), "--seed", 3)
    names = {"model", "tensorboard", "checkpoints", "history.csv", "head_influence.csv", "metadata_vocab.json"}
    assert {path.name for path in out.iterdir()} == names | {
        "metadata_field_specs.json",
        "config.json",
        "provenance.json",
    }
    assert json.loads((out / "config.json").read_text())["seed"] == 3
    assert pd.read_csv(out / "history.csv")["epoch"].tolist() == [0, 1, 2]
    assert pd.read_csv(out / "head_influence.csv", index_col="head").index.tolist() == ["base", "tissue", "treated"]
    assert any(path.name.startswith("events") for path in (out / "tensorboard").iterdir())
    assert json.loads((out / "metadata_vocab.json").read_text()) == json.loads(
        (specs / "metadata_vocab.json").read_text()
    )
    model, cells = hp.CycleAE.load(out / "model"), ad.read_h5ad(chunks / "cells.h5ad")

    values = ["--set", "tissue=tissue_1", "--set", "treated=True"]
    run(
        "cycleae",
        "counterfactual",
        "--model",
        out,
        "--data",
        chunks / "cells.h5ad",
        *values,
        "-o",
        tmp_path / "cf.h5ad",
    )
    found = ad.read_h5ad(tmp_path / "cf.h5ad")
    expected = model.get_counterfactual_expression(cells, context={"tissue": "tissue_1", "treated": True})
    np.testing.assert_allclose(found.X, expected, atol=1e-5)
    assert set(found.obs["tissue"]) == {"tissue_1"} and found.obs["treated"].all()

    run("cycleae", "influence", "--model", out, "--data", chunks / "cells.h5ad", "-o", tmp_path / "i.csv")
    table = pd.read_csv(tmp_path / "i.csv", index_col="head")
    np.testing.assert_allclose(table, model.get_head_influence(ad.read_h5ad(chunks / "cells.h5ad")), rtol=1e-5)
    # nothing is written over
    for command in (
        ["counterfactual", "--model", out, "--data", chunks / "cells.h5ad", *values, "-o", tmp_path / "cf.h5ad"],
        ["influence", "--model", out, "--data", chunks / "cells.h5ad", "-o", tmp_path / "i.csv"],
        ["train", "--config", tmp_path / "run.yaml"],
    ):
        assert "exists" in run("cycleae", *command, code=2).stderr
    wrong = ["counterfactual", "--model", out, "--data", chunks / "cells.h5ad", "-o", tmp_path / "x.h5ad"]
    assert "expected FIELD=VALUE" in run("cycleae", *wrong, "--set", "tissue", code=2).stderr
    assert "'moon' is no category" in run("cycleae", *wrong, "--set", "tissue=moon", code=1).stderr
    assert (
        "complete" in run("cycleae", "train", "--config", tmp_path / "run.yaml", "--seed", 3, "--resume", code=2).stderr
    )


def test_ca_10_an_interrupted_run_resumes_to_the_same_result(run, chunks, specs, tmp_path, monkeypatch):
    whole = config(tmp_path / "a.yaml", settings(chunks, specs, tmp_path / "a", num_epochs=4))
    run("cycleae", "train", "--config", whole)
    from hpvade.models.cycleae._cycle_plan import CyclePlan

    start = CyclePlan.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    cut = config(tmp_path / "b.yaml", settings(chunks, specs, tmp_path / "b", num_epochs=4))
    monkeypatch.setattr(CyclePlan, "on_train_epoch_start", stop)
    assert "power cut" in run("cycleae", "train", "--config", cut, code=1).stderr
    monkeypatch.undo()
    assert "latent_dim" in run("cycleae", "train", "--config", cut, "--latent-dim", 7, "--resume", code=2).stderr
    run("cycleae", "train", "--config", cut, "--resume")
    a, b = (hp.CycleAE.load(tmp_path / name / "model").get_context_effects() for name in "ab")
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    a, b = (pd.read_csv(tmp_path / name / "history.csv") for name in "ab")
    pd.testing.assert_frame_equal(a, b)


def test_ca_10_template_and_job_script(run, tmp_path):
    run("cycleae", "init-config", "-o", tmp_path / "run.yaml", "--slurm")
    values = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert [name for name, value in values.items() if value == "EDIT_ME"] == [
        "data_dir", "expr_glob", "meta_glob", "vocab", "specs", "output_dir",
    ]  # fmt: skip
    script = (tmp_path / "run.slurm").read_text()
    assert script.startswith("#!/bin/bash\n#SBATCH") and "--config run.yaml" in script and "--resume" in script
    assert script.count("EDIT_ME") == 3
    assert "exists" in run("cycleae", "init-config", "-o", tmp_path / "run.yaml", code=2).stderr


def test_ca_21_everything_wrong_in_a_config_is_listed_at_once(run, chunks, tmp_path):
    run("cycleae", "init-config", "-o", tmp_path / "run.yaml")
    values = yaml.safe_load((tmp_path / "run.yaml").read_text())
    values |= {"data_dir": str(chunks), "colour": 1, "size": 2, "vocab": None, "scale": "cpm", "batch_size": 0}
    said = run("cycleae", "train", "--config", config(tmp_path / "run.yaml", values), code=2).stderr
    for text in (
        "unknown key colour",
        "unknown key size",
        "missing value of vocab",
        "expr_glob is still EDIT_ME",
        "output_dir is still EDIT_ME",
        "scale is 'cpm', expected one of log1p, counts",
        "batch_size is 0, expected a whole number of at least 1",
    ):
        assert text in said, said
    assert "data_dir" not in said.split("Known keys")[0]
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml"}


def test_gene_names_come_along_and_the_training_format_answers(run, chunks, specs, tmp_path):
    """Chunks as they were trained on (.npz and a table) serve `counterfactual` and `influence`, too."""
    named = config(tmp_path / "a.yaml", settings(chunks, specs, tmp_path / "a", num_epochs=1, genes=None))
    run("cycleae", "train", "--config", named)
    model = hp.CycleAE.load(tmp_path / "a" / "model")
    assert list(model.get_var_names()) == (chunks / "genes.txt").read_text().split()
    data = ["--data", chunks / "human_counts_0.npz"]
    where = ["--model", tmp_path / "a", "--set", "tissue=tissue_1", "-o", tmp_path / "cf.h5ad"]
    refused = run("cycleae", "counterfactual", *where, *data, code=2).stderr
    assert "pass the file beside it with --meta" in refused
    data += ["--meta", chunks / "human_metadata_0.csv"]
    run("cycleae", "counterfactual", *where, *data)
    found, cells = ad.read_h5ad(tmp_path / "cf.h5ad"), ad.read_h5ad(chunks / "cells.h5ad")
    expected = model.get_counterfactual_expression(cells[:70].copy(), context={"tissue": "tissue_1"})
    np.testing.assert_allclose(found.X, expected, atol=1e-5)
    run("cycleae", "influence", "--model", tmp_path / "a", *data, "-o", tmp_path / "i.csv")
    assert len(pd.read_csv(tmp_path / "i.csv")) == 3


def test_a_model_without_gene_names_says_how_to_cure_it(run, chunks, specs, tmp_path):
    for path in chunks.glob("human_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = settings(tmp_path, specs, tmp_path / "run", num_epochs=1, genes=None)
    run("cycleae", "train", "--config", config(tmp_path / "run.yaml", values))
    ask = ["cycleae", "influence", "--model", tmp_path / "run", "-o", tmp_path / "i.csv", "--data"]
    refused = run(*ask, chunks / "cells.h5ad", code=2).stderr
    assert "without gene names" in refused and "--genes" in refused and "--meta" in refused
    run(*ask, tmp_path / "human_counts_1.npz", "--meta", tmp_path / "human_metadata_1.csv")


def test_include_files_may_have_comments(run, chunks, tmp_path):
    (tmp_path / "more.txt").write_text("# fields\nsex  # of the donor\n\n")
    preprocess(run, chunks, tmp_path / "specs", "--include-file", tmp_path / "more.txt")
    specs = json.loads((tmp_path / "specs/metadata_field_specs.json").read_text())
    assert {name for name, spec in specs.items() if spec["using"]} == {"tissue", "treated", "sex"}
