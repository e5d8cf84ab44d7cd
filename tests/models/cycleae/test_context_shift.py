"""Mean differences between contexts."""

import numpy as np
import torch

from hpvade.models.cycleae._context_shift import ContextShift


def test_shift_is_additive_plus_the_residual_of_known_combinations():
    torch.manual_seed(0)
    profiles, residuals = [torch.randn(2, 4), torch.randn(3, 4)], torch.randn(3, 4)
    combinations = torch.tensor([[1, 2], [0, 0], [1, -1]])
    shift = ContextShift([2, 3], 4)
    shift.fit(profiles, combinations, residuals)
    codes = torch.tensor([[0, 0], [1, 2], [0, 1], [1, -1], [-1, 0]])
    expected = []
    for a, b in codes.tolist():
        row = (profiles[0][a] if a >= 0 else 0) + (profiles[1][b] if b >= 0 else 0)
        known = [k for k, c in enumerate(combinations.tolist()) if c == [a, b]]
        expected.append((row + (residuals[known[0]] if known else 0)).numpy())
    np.testing.assert_allclose(shift.mean(codes), np.stack(expected), atol=1e-6)
    np.testing.assert_allclose(shift(codes[:1], codes[1:2]), [expected[1] - expected[0]], atol=1e-6)
    loaded = ContextShift([2, 3], 4)
    loaded.load_state_dict(shift.state_dict())
    assert torch.equal(loaded.mean(codes), shift.mean(codes)), "kept with the model, to translate"


def test_change_follows_the_levels_of_known_combinations():
    torch.manual_seed(0)
    profiles, combinations, levels = [torch.randn(2, 4)], torch.tensor([[1], [0]]), torch.randn(2, 4)
    shift = ContextShift([2], 4)
    shift.fit(profiles, combinations, torch.zeros(2, 4))
    one, zero = torch.tensor([[1]]), torch.tensor([[0]])
    assert torch.equal(shift.change(zero, one), shift(zero, one)), "no levels: as the effects say"
    shift.fit(profiles, combinations, torch.zeros(2, 4), levels=levels)
    torch.testing.assert_close(shift.change(zero, one), (levels[0] - levels[1])[None])
    unknown = torch.tensor([[-1]])
    assert torch.equal(shift.change(unknown, one), shift(unknown, one))
    older = {name: value for name, value in shift.state_dict().items() if "levels" not in name}
    loaded = ContextShift([2], 4)
    loaded.load_state_dict(older)
    assert torch.equal(loaded.change(zero, one), shift(zero, one)), "a model saved without levels"


def test_many_fields_with_many_categories_do_not_collide():
    torch.manual_seed(0)
    combinations = torch.unique(torch.randint(-1, 200, (256, 12)), dim=0)
    residuals = torch.arange(len(combinations), dtype=torch.float32)[:, None]
    shift = ContextShift([200] * 12, 1)
    shift.fit([torch.zeros(200, 1)] * 12, combinations, residuals)
    np.testing.assert_array_equal(shift.mean(combinations), residuals)
    assert (shift.mean(combinations.flip(1))[:, 0] == 0).float().mean() > 0.99
