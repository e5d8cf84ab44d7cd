"""Norms collected over batches against NumPy."""

import numpy as np
import torch

from hpvade.models.cycleae._influence_log import InfluenceLog


class Stub:
    """Two heads with known parts."""

    fields = ["sex"]

    def __init__(self):
        self.generator = self

    def by_field(self, codes):
        return {"sex": codes[:, 0]}

    def encode(self, x, codes):
        return x

    def head_logits(self, x, codes):
        return {"base": x.clone(), "sex": 2 * x}


def test_norms_are_centred_over_the_batch_and_a_pass_ends():
    x = torch.randn(6, 4)
    log = InfluenceLog()
    log.add(Stub(), x, torch.zeros(6, 1))
    means, centre = log.means(), 2 * x.numpy().mean(axis=0)
    norms = {"base": np.linalg.norm(x.numpy() + centre, axis=1), "sex": np.linalg.norm(2 * x.numpy() - centre, axis=1)}
    for head, norm in norms.items():
        assert np.isclose(means[head], norm.mean(), rtol=1e-5)
    log.close()
    np.testing.assert_allclose(
        log.last["sex"], [norms["sex"].mean(), norms["sex"].min(), norms["sex"].max()], rtol=1e-5
    )
    assert log.means() == {} and log.table().splitlines()[2].startswith("| base | ")
    bars = log.figure().axes[0]
    np.testing.assert_allclose([p.get_height() for p in bars.patches], [n.mean() for n in norms.values()], rtol=1e-5)
