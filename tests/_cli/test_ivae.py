"""IV-07: the files of ``hpvade ivae train``."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade._cli._ivae import cells_per_batch


@pytest.fixture
def command(run, files, tmp_path):
    """``hpvade ivae train`` for two epochs into ``out``, on the CPU."""

    def command(*arguments, code=0, data="--data_path", output="--output_dir"):
        base = ["ivae", "train", data, files.ref, output, tmp_path / "out", "--epochs", 2, "--device", "cpu"]
        return run(*base, *arguments, code=code)

    return command


def test_iv_07_files_in_the_order_of_the_cells(command, files, tmp_path):
    options = ["--latent_dim", 6, "--i-dim", 3, "--hidden-dim", 16, "--percent", 0.1, "--save-model", tmp_path / "m"]
    result = command(*options, "--labels-key", "cell_type", "--batch_key", "batch", "--tc", 0.5)
    assert "240 cells, 2 epochs" in result.stdout and "ARI" in result.stdout
    latent, bottleneck = (np.load(tmp_path / "out" / name) for name in ("latent.npy", "iembed.npy"))
    assert latent.shape == (240, 6) and bottleneck.shape == (240, 3)
    assert latent.dtype == bottleneck.dtype == np.float32
    reference = ad.read_h5ad(files.ref)
    assert (tmp_path / "out" / "obs_names.txt").read_text().split("\n")[:-1] == list(reference.obs_names)
    model = hp.IVAE.load(tmp_path / "m", adata=False)
    shuffled = reference[np.random.default_rng(0).permutation(240)].copy()
    table = pd.DataFrame(latent, index=reference.obs_names).loc[shuffled.obs_names]
    np.testing.assert_allclose(model.get_latent_representation(shuffled), table, atol=1e-5)
    np.testing.assert_allclose(model.get_bottleneck_representation(reference), bottleneck, atol=1e-5)
    history = pd.read_csv(tmp_path / "out" / "history.csv", index_col="epoch")
    assert list(history.index) == [0, 1]
    assert {"train_loss", "reconstruction_train", "irecon_train", "kl_validation", "tc_train"} <= set(history)


def test_same_seed_same_files(command, tmp_path):
    found = []
    for seed in (1, 1, 2):
        command("--seed", seed, "--percent", 0.5, data="--data-path", output="--output-dir")
        found.append(np.load(tmp_path / "out" / "iembed.npy"))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_without_irecon_there_is_no_bottleneck(command, tmp_path):
    result = command("--irecon", 0, "--percent", 0.5)
    assert "iembed.npy" not in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "latent.npy",
        "obs_names.txt",
        "history.csv",
        "provenance.json",
    }


def test_layers(command, files, tmp_path, run):
    adata = ad.read_h5ad(files.ref)
    adata.layers["counts"], adata.X = adata.X, np.zeros(adata.shape, dtype=np.float32)
    adata.write_h5ad(tmp_path / "layered.h5ad")
    base = ["ivae", "train", "--data_path", tmp_path / "layered.h5ad", "--epochs", 1, "--percent", 1, "--device", "cpu"]
    for i, options in enumerate((["--layer", "counts"], [])):  # the layer of that name, if there is one
        run(*base, *options, "--output_dir", tmp_path / str(i))
    same = [np.load(tmp_path / str(i) / "latent.npy") for i in range(2)]
    np.testing.assert_array_equal(*same)
    result = run(*base, "--layer", "X", "--output_dir", tmp_path / "none", code=1)
    assert "only zeros" in result.stderr and not (tmp_path / "none").exists()


@pytest.mark.parametrize("percent", [0, -0.1, 1.5, "nan"])
def test_iv_15_percent_outside_is_a_usage_error(command, tmp_path, percent):
    result = command("--percent", percent, code=2)
    assert "expected a share of the cells above 0 and at most 1" in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--i-dim", 11], 2, "larger than --latent_dim 10"),
        (["--i-dim", 0], 2, "Invalid value"),
        (["--beta", -1], 2, "Invalid value"),
        (["--lr", 0], 2, "--lr is 0.0"),
        (["--layer", "raw"], 1, "layer 'raw' is not in REF.layers"),
        (["--labels-key", "type"], 1, "--labels-key type is not a column of"),
        (["--device", "cuda:99"], 1, "this machine has none"),
    ],
)
def test_iv_15_bad_options_are_said_and_nothing_is_written(command, tmp_path, options, code, message):
    result = command(*options, code=code)
    assert message in " ".join(result.stderr.split()) and not (tmp_path / "out").exists()


def test_a_missing_file_is_named(run, tmp_path):
    result = run("ivae", "train", "--data_path", tmp_path / "no.h5ad", code=2)
    assert "no.h5ad does not exist" in result.stderr


def test_iv_07_help_lists_every_option_of_the_specification(run):
    text = run("ivae", "train", "--help").stdout
    named = "data_path layer output_dir epochs lr percent hidden_dim latent_dim i_dim beta irecon dip tc info"
    for name in [*named.split(), "batch-key", "labels-key", "seed", "device", "save-model"]:
        assert f"--{name}" in text, name


@pytest.mark.parametrize(
    ("percent", "n", "expected"), [(0.01, 50, 2), (0.01, 5000, 50), (1, 7, 7), (0.5, 3, 2), (0.9, 2, 2), (1, 1, 1)]
)
def test_cells_per_batch(percent, n, expected):
    assert cells_per_batch(percent, n) == expected
