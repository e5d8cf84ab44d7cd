import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd

import hpvade as hp


def test_train_saves_a_model_that_loads(model, files):
    signatures = hp.HPVADE.load(model).get_signature_matrix()
    assert list(signatures.columns) == ["type_0", "type_1", "type_2"]
    assert list(signatures.index) == list(ad.read_h5ad(files.ref).var_names)


def test_train_says_what_it_wrote(run, files, tmp_path):
    options = ["--labels-key", "cell_type", "--sample-key", "donor", "--epochs", 1, "--accelerator", "cpu"]
    result = run("train", files.ref, "-o", tmp_path / "m", *options, "--preset", "spec")
    assert f"{tmp_path / 'm'}: model of 3 types, trained on 240 cells." in result.stdout
    assert "Traceback" not in result.stderr


def test_no_epochs_are_the_regression_alone(run, files, tmp_path):
    options = ["--labels-key", "cell_type", "--epochs", 0, "--accelerator", "cpu"]
    run("train", files.ref, "-o", tmp_path / "m", *options)
    run("deconvolve", files.bulk, "--model", tmp_path / "m", "-o", tmp_path / "p.csv")
    run("deconvolve", files.ref, files.bulk, *options, "-o", tmp_path / "q.csv")
    reference = ad.read_h5ad(files.ref)
    hp.HPVADE.setup_anndata(reference, "cell_type")
    model = hp.HPVADE(reference)
    model.train(max_epochs=0, accelerator="cpu")
    expected = model.deconvolve(ad.read_h5ad(files.bulk))
    for name in ("p.csv", "q.csv"):
        np.testing.assert_allclose(pd.read_csv(tmp_path / name, index_col=0), expected, atol=1e-6)
    result = run("train", files.ref, "-o", tmp_path / "n", *options, "--preset", "spec", code=2)
    assert "with --preset spec there is nothing else" in result.stderr and not (tmp_path / "n").exists()


def test_studies_and_sums_reach_the_model(run, files, tmp_path):
    reference = ad.read_h5ad(files.ref)
    reference.obs["study"] = ["a", "b"] * (reference.n_obs // 2)
    sums = hp.pp.summarize(reference, "cell_type", sample_key="donor", study_key="study")
    sums.write_h5ad(tmp_path / "sums.h5ad")
    keys = ["--sample-key", "donor", "--study-key", "study", "--n-cells-key", "n_cells"]
    run("train", tmp_path / "sums.h5ad", "-o", tmp_path / "m", "--labels-key", "cell_type", *keys)
    assert hp.HPVADE.load(tmp_path / "m").studies == ["a", "b"]
    result = run(
        "deconvolve", files.bulk, "--model", tmp_path / "m", "--study-key", "study", "-o", tmp_path / "p.csv", code=2
    )
    assert "--study-key belong to training" in result.stderr


def test_the_training_libraries_keep_silent(files, tmp_path):
    # in a process of its own: they set up their loggers at import
    options = ["-o", tmp_path / "m", "--labels-key", "cell_type", "--epochs", "1", "--accelerator", "cpu"]
    code = "from hpvade._cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", files.ref, *options], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("hpvade: progress: ") for line in lines)
    assert done.stdout.count("\n") == 1


def test_a_folder_in_use_is_refused_before_the_work(run, files, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = run("train", files.ref, "-o", tmp_path, "--labels-key", "cell_type", code=2)
    assert "is not empty. Pass --overwrite" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_the_model_and_keeps_other_files(run, files, tmp_path):
    options = ["--labels-key", "cell_type", "--epochs", 1, "--accelerator", "cpu"]
    run("train", files.ref, "-o", tmp_path / "m", *options)
    (tmp_path / "m" / "mine.txt").write_text("mine")
    before = hp.HPVADE.load(tmp_path / "m").get_signature_matrix()
    run("train", files.ref, "-o", tmp_path / "m", *options, "--overwrite", "--seed", 5)
    assert (tmp_path / "m" / "mine.txt").read_text() == "mine"
    assert not hp.HPVADE.load(tmp_path / "m").get_signature_matrix().equals(before)


def test_bad_data_is_one_line_and_nothing_is_written(run, files, tmp_path):
    for options, said in (
        (["--labels-key", "type"], "--labels-key type is not a column of"),
        (["--labels-key", "cell_type", "--layer", "raw"], "'raw'"),
        (["--labels-key", "cell_type", "--accelerator", "abacus"], "abacus"),
    ):
        result = run("train", files.ref, "-o", tmp_path / "m", *options, code=1)
        assert said in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(run, tmp_path):
    result = run("train", tmp_path / "no.h5ad", "-o", tmp_path / "m", "--labels-key", "cell_type", code=2)
    assert result.stderr == f"hpvade: error: {tmp_path / 'no.h5ad'} does not exist.\n"


def test_a_type_from_sorted_profiles(run, tmp_path):
    cells, _ = hp.datasets.planted_cohort(n_types=4, n_genes=600, n_cells=400, seed=3)
    means = cells.to_df().groupby(cells.obs["cell_type"], observed=True).mean().T
    means.to_csv(tmp_path / "tpm.tsv", sep="\t", index_label="gene")
    known = cells[cells.obs["cell_type"] != "type_3"].copy()
    known.obs["cell_type"] = known.obs["cell_type"].cat.remove_unused_categories()
    known.write_h5ad(tmp_path / "ref.h5ad")
    sizes = {"type_0": 1.0, "type_3": 2.0}
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    arguments = ["train", tmp_path / "ref.h5ad", "-o", tmp_path / "m", "--labels-key", "cell_type"]
    arguments += ["--sample-key", "donor"]
    added = ["--sorted-profiles", tmp_path / "tpm.tsv", "--add-type", "type_3"]
    assert "need each other" in run(*arguments, "--add-type", "type_3", code=2).stderr
    assert "--epochs cannot be given with --add-type" in run(*arguments, *added, "--epochs", 2, code=2).stderr
    result = run(*arguments, *added, "--rna-content", tmp_path / "sizes.json")
    assert f"model of 4 types, trained on {known.n_obs} cells." in result.stdout
    signature = hp.HPVADE.load(tmp_path / "m").get_signature_matrix()
    columns = {"labels_key": "cell_type", "sample_key": "donor"}
    sums = hp.pp.add_sorted_profiles(
        hp.pp.summarize(known, **columns), means.astype(float), ["type_3"], rna_content=sizes, **columns
    )
    own = sums[sums.obs["cell_type"] == "type_3"]
    expected = np.asarray(own.X.sum(axis=0)).ravel()
    found = signature.loc[own.var_names, "type_3"]
    assert np.corrcoef(found, expected)[0, 1] > 0.999
