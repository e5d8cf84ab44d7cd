"""Batches of simulated bulk: what they hold, and when they repeat."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hpvade.reference._mixtures import BulkSimulation, BulkStream
from hpvade.simulate import ChunkSums, PlatformNoise

PLAIN = BulkSimulation(n_cells=200, noise=None, prior={"dirichlet": 1.0})
chunks = ChunkSums(
    np.eye(3, dtype=np.float32).repeat(2, axis=0) * 5,  # two donors per type, ten molecules per chunk of two cells
    np.repeat(np.arange(3), 2),
    np.tile([0, 1], 3),
    np.full(6, 2),
    np.full(6, 5.0),
    n_types=3,
)
composition = np.array([0.5, 0.3, 0.2])


def stream(simulation=PLAIN, n_batches=4, **kwargs):
    return BulkStream(chunks, composition, simulation, n_batches=n_batches, batch_size=6, **kwargs)


def bulk_of(batches):
    return torch.stack([batch["bulk"] for batch in batches])


def test_batches_hold_mixtures_and_their_labels():
    batches = list(stream())
    assert len(batches) == len(stream()) == 4
    for batch in batches:
        assert set(batch) == {"bulk", "proportions", "rna_proportions"}
        assert all(value.dtype == torch.float32 and value.shape == (6, 3) for value in batch.values())
        # a type's 200 p cells are chunks of two cells with five molecules
        np.testing.assert_allclose(batch["bulk"], batch["proportions"] * 200 * 2.5, rtol=1e-5)
        np.testing.assert_allclose(batch["rna_proportions"], batch["proportions"], atol=1e-6)


def test_new_draws_at_every_pass_that_torch_seed_decides():
    torch.manual_seed(3)
    passes = stream()
    first, second = bulk_of(passes), bulk_of(passes)
    assert not torch.equal(first, second)
    assert len(torch.unique(first, dim=0)) == 4  # batches of one pass differ, too
    torch.manual_seed(3)
    assert torch.equal(bulk_of(stream()), first)


def test_fixed_seed_gives_the_same_batches_and_leaves_torch_alone():
    before = torch.random.get_rng_state()
    fixed = stream(seed=7)
    first = bulk_of(fixed)
    assert torch.equal(bulk_of(fixed), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(bulk_of(stream(seed=8)), first)


@pytest.mark.parametrize("seed", [None, 7])
def test_workers_share_the_batches_without_duplicates(seed):
    torch.manual_seed(0)
    loader = DataLoader(stream(n_batches=5, seed=seed), batch_size=None, num_workers=2)
    first, second = bulk_of(loader), bulk_of(loader)
    assert len(first) == 5
    assert len(torch.unique(first, dim=0)) == 5
    assert torch.equal(first, second) == (seed is not None)


def test_default_simulation_has_noise_and_pseudo_cohorts():
    """Mixtures of one cohort share the RNA content per type; the next cohort has another."""
    noise = PlatformNoise(size_sd=0.5)
    batch = BulkSimulation(noise=noise, cohort_size=4, prior={"dirichlet": 1.0}, alpha=20.0).draw(
        chunks, composition, 8, np.random.default_rng(0)
    )
    ratio = torch.log(batch["rna_proportions"] / batch["proportions"])
    ratio = ratio - ratio[:, :1]
    np.testing.assert_allclose(ratio[:4], ratio[:1].expand(4, 3), atol=1e-4)
    np.testing.assert_allclose(ratio[4:], ratio[4:5].expand(4, 3), atol=1e-4)
    assert (ratio[0] - ratio[4])[1:].abs().min() > 0.01
    totals = batch["bulk"].sum(dim=1)
    assert totals.min() > 5e5 and totals.max() < 3e8
    assert BulkSimulation().noise == PlatformNoise()


def test_reference_prior_is_centred_on_the_composition():
    simulation = BulkSimulation(n_cells=1000, noise=None, prior={"reference": 1.0})
    proportions = simulation.draw(chunks, composition, 3000, np.random.default_rng(0))["proportions"]
    np.testing.assert_allclose(proportions.mean(dim=0), composition, atol=0.01)


def test_types_without_cells_have_no_share():
    some = ChunkSums(
        *(getattr(chunks, name)[[0, 1, 4, 5]] for name in ("counts", "types", "donors", "n_cells", "totals")), 3
    )
    batch = BulkSimulation().draw(some, composition, 50, np.random.default_rng(0))
    for key in ("proportions", "rna_proportions"):
        np.testing.assert_array_equal(batch[key][:, 1], 0)
        np.testing.assert_allclose(batch[key].sum(dim=1), 1, atol=1e-6)
