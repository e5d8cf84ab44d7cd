"""Cells by position: what NumPy takes is taken, anything else refused by name."""

import numpy as np
import pytest

from hpvade.io._positions import cell_positions


@pytest.mark.parametrize(
    "indices", [None, [2, 0, 2], np.array([True, False, True, False]), slice(1, 3), -1, range(4), np.uint8([3])]
)
def test_what_numpy_takes(indices):
    expected = np.atleast_1d(np.arange(4)[slice(None) if indices is None else indices])
    np.testing.assert_array_equal(cell_positions(4, indices), expected)


@pytest.mark.parametrize("indices", [[4], [-5], ["cell_0"], [0.5], np.ones(3, dtype=bool)])
def test_what_is_no_position(indices):
    with pytest.raises(IndexError, match="indices do not fit 4 cells: .* Expected positions from 0 to 3, or a mask"):
        cell_positions(4, indices)


@pytest.mark.parametrize("indices", [[], np.zeros(4, dtype=bool), slice(9, 12)])
def test_no_cell_at_all(indices):
    with pytest.raises(ValueError, match="indices choose none of 4 cells; expected one or more"):
        cell_positions(4, indices)
