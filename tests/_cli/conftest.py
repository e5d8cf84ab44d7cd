from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import hpvade as hp
from hpvade._cli import app


@pytest.fixture
def run():
    """Run ``hpvade`` with these arguments; the exit code must be `code`."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A planted reference and its bulk as files, and the truth as CSV."""
    folder = tmp_path_factory.mktemp("planted")
    reference, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=200, n_cells=240, n_samples=6, seed=3)
    paths = SimpleNamespace(folder=folder, ref=folder / "ref.h5ad", bulk=folder / "bulk.h5ad", truth=folder / "t.csv")
    reference.write_h5ad(paths.ref)
    bulk.write_h5ad(paths.bulk)
    bulk.obsm["proportions"].to_csv(paths.truth)
    return paths


@pytest.fixture(scope="session")
def model(files):
    """The folder of a model trained for two epochs by ``hpvade train``."""
    folder = files.folder / "model"
    arguments = ["train", files.ref, "-o", folder, "--labels-key", "cell_type", "--epochs", 2, "--accelerator", "cpu"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder
