import numpy as np
import pytest
import torch

from hpvade.solvers._iterate import by_blocks, close, fixed_point


def test_close_clips_scales_and_makes_empty_rows_even():
    found = close(torch.tensor([[1.0, -2.0, 3.0], [0.0, -1.0, 0.0], [1e-200, 0.0, 1e-200]], dtype=torch.float64))
    np.testing.assert_allclose(found, [[0.25, 0, 0.75], [1 / 3] * 3, [0.5, 0, 0.5]])


def test_blocks_are_no_larger_than_asked_for_and_in_order():
    sizes = []

    def double(rows):
        sizes.append(len(rows))
        return 2 * rows

    x = torch.arange(14.0).reshape(7, 2)
    assert torch.equal(by_blocks(double, x, 3), 2 * x.double())
    assert sizes == [3, 3, 1]


def test_each_sample_stops_on_its_own():
    """Halving the distance to 1, a sample moves less than the tolerance after its own number of steps."""
    steps = torch.zeros(3)

    def step(x, rows):
        steps[rows] += 1
        return torch.stack([(x[:, 0] + 0.5) / 2, (x[:, 1] + 0.5) / 2], dim=1)

    start = torch.tensor([[0.5, 0.5], [0.6, 0.4], [1.0, 0.0]], dtype=torch.float64)
    before = start.clone()
    found = fixed_point(step, start, tolerance=0.01, n_iterations=100)
    # moves are d, d/2, ... in sum with d = 0, 0.1 and 0.5
    assert steps.tolist() == [1, 5, 7]
    np.testing.assert_allclose(found[:, 0] - 0.5, [0, 0.1 / 2**5, 0.5 / 2**7])
    assert torch.equal(start, before)


def test_iterations_are_bounded():
    def swing(x, rows):
        return x.flip(1)

    start = torch.tensor([[1.0, 0.0]])
    assert torch.equal(fixed_point(swing, start, tolerance=1e-3, n_iterations=5), start.flip(1))
    with pytest.raises(ValueError, match="n_iterations=0"):
        fixed_point(swing, start, tolerance=1e-3, n_iterations=0)
