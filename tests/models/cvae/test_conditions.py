import numpy as np
import pytest
import torch

from hpvade.models.cvae._conditions import ConditionEmbedding, ConditionPrior, shares


def test_unseen_categories_take_the_mean_and_the_zero_row_stays():
    embedding = ConditionEmbedding(5, 3, zero=1)
    embedding.seen.copy_(torch.tensor([True, True, True, False, False]))
    found = embedding(torch.arange(5))
    torch.testing.assert_close(found[[0, 2]], embedding.weight[[0, 2]])
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[3], embedding.weight[[0, 2]].mean(dim=0))
    torch.testing.assert_close(found[4], found[3])
    found.sum().backward()
    assert (embedding.weight.grad[[1, 3, 4]] == 0).all() and (embedding.weight.grad[[0, 2]] != 0).all()


def test_shares():
    torch.testing.assert_close(shares(torch.tensor([1, 0]), 3), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    mixed = torch.tensor([[0.5, 0.5, 0.0]])
    assert shares(mixed, 3) is mixed


@pytest.fixture
def prior():
    """Fitted to cells of two types and two perturbations, one pair without cells; and what they were drawn from."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1]]).repeat_interleave(4000, dim=0)
    mean = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, -5.0]]).repeat_interleave(4000, dim=0)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    mu = mean + torch.randn(12000, 2, generator=generator) @ factor.T
    totals = torch.tensor([100.0, 200.0, 300.0]).repeat_interleave(4000) * (
        0.5 + torch.rand(12000, generator=generator)
    )
    prior = ConditionPrior(3, 3, 2, n_conditions=3, n_combinations=3)
    prior.fit(mu, torch.full((12000, 2), 0.5), totals, ids)
    return prior


def test_draws_have_the_moments_of_the_condition(prior):
    torch.manual_seed(0)
    expected = np.array([[1.0, 0.8], [0.8, 1.0]]) + 0.5 * np.eye(2)  # between cells, and within their posterior
    for pair, mean in (((0, 0), (0, 0)), ((0, 1), (3, 0)), ((1, 0), (0, -5))):
        z = prior.draw(*(torch.full((20000,), i) for i in pair)).numpy()
        np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(z.T), expected, atol=0.08)


def test_totals_follow_the_quantiles(prior):
    torch.manual_seed(0)
    totals = prior.draw_totals(torch.zeros(20000, dtype=torch.long), torch.ones(20000, dtype=torch.long)).numpy()
    np.testing.assert_allclose(np.quantile(totals, [0, 0.25, 0.5, 1]), [100, 150, 200, 300], rtol=0.03)


def test_pairs_without_cells_fall_back(prior):
    torch.manual_seed(0)
    z = prior.draw(torch.ones(4000, dtype=torch.long), torch.ones(4000, dtype=torch.long))
    np.testing.assert_allclose(z.mean(dim=0), [0, -5], atol=0.1)  # the type's
    z = prior.draw(torch.full((4000,), 2), torch.zeros(4000, dtype=torch.long))
    np.testing.assert_allclose(z.mean(dim=0), [1, -5 / 3], atol=0.2)  # all cells'


def test_experiments_are_those_of_the_condition(prior):
    torch.manual_seed(0)
    types, perturbations = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 0])
    found = torch.stack([prior.draw_experiments(types, perturbations) for _ in range(40)])
    assert (found[:, 0] == 0).all() and (found[:, 1] == 1).all() and (found[:, 2:4] == 1).all()
    assert set(found[:, 4].tolist()) == {0, 1}
