"""Counterfactuals follow what was measured: a network that has learned nothing still answers with the cells' means."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp
from hpvade.models.cvae._conditions import Responses
from hpvade.models.cvae._responses import _response, _weights
from hpvade.reference import _shift


def profiles(adata, kind, drug, experiment=None):
    chosen = (adata.obs["cell_type"] == kind) & (adata.obs["perturbation"] == drug)
    if experiment is not None:
        chosen &= adata.obs["experiment"] == experiment
    X = adata.X[chosen.to_numpy()].toarray()
    return np.log1p((1e4 * X / X.sum(axis=1, keepdims=True)).mean(axis=0))


def answer(model, adata, kind, drug):
    cells = np.flatnonzero((adata.obs["cell_type"] == kind) & (adata.obs["perturbation"] == "control"))
    found = model.get_counterfactual_expression(indices=cells, perturbation=drug, library_size=1e4)
    return np.log1p(found.to_numpy().mean(axis=0))


def test_the_factors_are_those_of_the_pair():
    responses = Responses(2, 2, 3, 1)
    responses.row[1, 1] = 1
    responses.log_ratio[1] = torch.log(torch.tensor([2.0, 1.0, 0.5]))
    scale, ids = torch.full((2, 3), 1 / 3), torch.tensor([1, 0])
    found = responses(scale, torch.tensor([[0.0, 1.0], [0.0, 1.0]]), ids)
    np.testing.assert_allclose(found[0], np.array([2, 1, 0.5]) / 3.5, rtol=1e-6)
    np.testing.assert_allclose(found[1], [1 / 3] * 3, rtol=1e-6)
    half = responses(scale, torch.tensor([[0.5, 0.5]] * 2), ids)[0]
    weights = np.sqrt([2, 1, 0.5])
    np.testing.assert_allclose(half, weights / weights.sum(), rtol=1e-6)


def test_measured_pairs_answer_with_their_means(cells, fit):
    adata = cells()
    model = fit(adata, epochs=1)
    before, after = (profiles(adata, "T", drug) for drug in ("control", "drug_b"))
    found = answer(model, adata, "T", "drug_b")
    assert np.sqrt(((found - after) ** 2).mean()) < 0.1 < 0.5 < np.sqrt(((before - after) ** 2).mean())
    np.testing.assert_allclose(answer(model, adata, "T", "control"), before, atol=0.4)
    model.module.net.responses = None
    assert np.sqrt(((answer(model, adata, "T", "drug_b") - after) ** 2).mean()) > 0.5


def test_a_pair_without_cells_answers_with_its_relatives(cells, fit):
    adata = cells()
    adata = adata[~((adata.obs["cell_type"] == "T") & (adata.obs["perturbation"] == "drug_b")).to_numpy()].copy()
    model = fit(adata, epochs=1)
    shifts = np.stack([profiles(adata, k, "drug_b") - profiles(adata, k, "control") for k in ("B", "Mono")])
    before = profiles(adata, "T", "control")
    r = [np.corrcoef(before, profiles(adata, k, "control"))[0, 1] for k in ("B", "Mono")]
    expected = np.average(shifts, axis=0, weights=np.exp(4 * np.array(r)))
    found = answer(model, adata, "T", "drug_b") - answer(model, adata, "T", "control")
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    # the network, which has learned little, is one of three that are averaged
    assert np.linalg.lstsq(expected[:, None], found, rcond=None)[0][0] == pytest.approx(2 / 3, abs=0.12)


@pytest.mark.parametrize("alike", [True, False])
def test_the_network_has_a_say_where_types_differ(alike):
    """Four types, the last one not measured; a network that knows nothing of the response."""
    rng = np.random.default_rng(0)
    base = rng.uniform(4, 6, (4, 400))
    shift = np.broadcast_to(rng.normal(0, 1, 400), (4, 400)) if alike else rng.normal(0, 1, (4, 400))

    def group(log):
        mean = np.expm1(log)
        return _shift.Moments(mean, 10 * mean, np.full(4, 200), np.full(4, 10.0))

    before, after = group(base), group(base + shift)
    noise = rng.normal(size=(4, 400)) * np.sqrt(after.log_variance + before.log_variance)
    after = replace(after, mean=np.expm1(base + shift + noise))
    measured, network = np.array([True, True, True, False]), rng.normal(0, 1, (4, 400))
    found = _response(before, after, before.mean, measured, network)[3]
    values = np.where(measured[:, None], after.log - before.log, 0)
    relatives = (_weights(values, measured, before) @ values)[3]
    expected = relatives if alike else (3 * relatives + network[3]) / 4  # one of four
    np.testing.assert_allclose(found, expected, atol=0.02 if alike else 1e-6)
    assert np.abs(network[3] - relatives).mean() > 0.5


def test_a_difference_between_experiments_is_no_response(cells, fit):
    adata = cells()
    adata.obs["perturbation"] = pd.Categorical(["drug" if i % 2 else "control" for i in range(adata.n_obs)])
    adata.obs["cell_type"] = pd.Categorical([("B", "T")[i // 2 % 2] for i in range(adata.n_obs)])
    first = (np.arange(adata.n_obs) // 4) % 4 < np.where(adata.obs["perturbation"] == "drug", 1, 3)
    adata.obs["experiment"] = pd.Categorical(np.where(first, "exp_0", "exp_1"))
    X = adata.X.toarray()
    X[first, :30] *= 4  # what an experiment does
    adata.X = type(adata.X)(X)
    model = fit(adata, epochs=1)
    confounded = profiles(adata, "B", "drug") - profiles(adata, "B", "control")
    found = answer(model, adata, "B", "drug") - answer(model, adata, "B", "control")
    assert np.abs(confounded[:30]).mean() > 0.3 and np.abs(found[:30]).mean() < 0.1


def test_saved_and_exported_with_the_model(cells, fit, tmp_path):
    adata = cells(180)
    model = fit(adata, epochs=1)
    model.save(tmp_path / "m")
    again = hp.ConditionalVAE.load(tmp_path / "m", adata=adata, accelerator="cpu")
    wanted = model.get_counterfactual_expression(perturbation="drug_a")
    pd.testing.assert_frame_equal(again.get_counterfactual_expression(perturbation="drug_a"), wanted)
    model.export_checkpoint(tmp_path / "m.pt")
    net, *_ = hp.ConditionalVAE.load_trained_model(tmp_path / "m.pt")
    torch.testing.assert_close(net.responses.log_ratio, model.module.net.responses.log_ratio)
    none = fit(adata, epochs=1, setup={"control_category": "drug_b"})
    assert none.module.net.responses is not None
    with pytest.warns(UserWarning, match="no control cells"):
        assert fit(adata, epochs=1, setup={"control_category": "nothing"}).module.net.responses is None
