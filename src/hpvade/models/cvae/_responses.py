"""What the cells say themselves about the response of each type: measured, taken from its relatives, or both."""

import numpy as np
import torch
from torch.nn.functional import one_hot

from ...reference import _shift

_MOST_VALUES = 2**26  # 256 MB: with more pairs times genes, pairs without cells are left to the network
_FLOOR = 0.01  # counts per 10,000; keeps ratios of absent genes finite
_CHUNK = 2048
_DECODED = 2**18  # control cells times perturbations that the network decodes


@torch.no_grad()
def fit_responses(model, train: np.ndarray) -> None:
    """Correct the network by the profiles of the training cells.

    The response of a type is what was measured in it, shrunk to what its relatives and the network say; where nothing
    was measured, it is the latter alone. The network counts as one more relative.
    """
    net, control = model.module.net, model._control
    model.n_responses_ = 0
    n_perturbations = len(model.perturbations)
    if control is None or n_perturbations < 2:
        return
    cells = _TrainingCells(model, train)
    base = cells.moments(control, control + 1)
    has_control = base.n_cells > 0
    if not has_control.any():
        return
    weights = _weights(np.where(has_control[:, None], base.log, 0), has_control, base)
    before = _shift.shrink(np.where(has_control[:, None], base.log, 0), base.log_variance, weights)
    decoded = cells.decoded(control)
    fill = n_perturbations * has_control.sum() * before.shape[1] <= _MOST_VALUES
    step = max(1, _MOST_VALUES // (4 * before.size))  # perturbations per pass over the cells
    ratios = {}
    for p in range(n_perturbations):
        if p % step == 0:
            block = cells.moments(p, min(p + step, n_perturbations))
        after = block[p % step :: min(step, n_perturbations - p + p % step)]
        measured = has_control & (after.n_cells > 0)
        shift = 0.0
        if p != control:
            by_network = np.log1p(decoded[p]) - np.log1p(decoded[control])
            shift = _response(base, after, cells.matched(base, control, p), measured, by_network)
        wanted = np.expm1((before + shift).clip(min=0))
        ratio = np.log((wanted + _FLOOR) / (decoded[p] + _FLOOR))
        ratios |= {(k, p): ratio[k] for k in np.flatnonzero(has_control if fill else measured)}
    model.n_responses_ = len(ratios)
    net.allocate_responses(len(ratios))
    for i, ((k, p), ratio) in enumerate(ratios.items(), start=1):
        net.responses.row[k, p] = i
        net.responses.log_ratio[i] = torch.from_numpy(ratio)


def _weights(values: np.ndarray, measured: np.ndarray, base: _shift.Moments) -> np.ndarray:
    """Weights of the measured relatives, as sharp as suits `values`."""
    sharpness = _shift.choose_sharpness(values, measured, base.log)
    return _shift.among(_shift.similarity_weights(base.log, sharpness), measured)


def _response(base, after, matched: np.ndarray, measured: np.ndarray, by_network: np.ndarray) -> np.ndarray:
    """Change of log1p counts per 10,000 (types, genes) by one perturbation.

    The network is one more relative, but leaves the others by no more than types differ beyond the noise: where they
    all answer alike, what it says of one of them is an error.
    """
    values = np.where(measured[:, None], after.log - np.log1p(matched), 0)
    variance = np.where(measured[:, None], after.log_variance + base.log_variance, np.inf)
    weights = _weights(values, measured, base)
    relatives, others = weights @ values, (measured.sum() - measured)[:, None]
    noise = variance + weights**2 @ np.where(measured[:, None], variance, 0)
    spread = max(((relatives - values) ** 2 - noise)[measured].mean(), 0) if measured.any() else np.inf
    apart = ((by_network - relatives) ** 2).mean(axis=1, keepdims=True)
    share = np.minimum(1 / (others + 1), spread / np.maximum(apart, 1e-12))
    return _shift.shrink(values, variance, weights, relatives + share * (by_network - relatives))


class _TrainingCells:
    """The labelled training cells of a model: moments of groups of them, and what the network makes of them."""

    def __init__(self, model, train: np.ndarray):
        self.model, self.cells = model, model._read(None, train)
        self.types, self.perturbations, self.experiments = (
            self.cells.of(key) for key in ("labels", "perturbation", "batch")
        )
        self.n_types, self.n_experiments = len(model.cell_types), len(model._vocabularies["batch"])
        self.labelled = self.types < self.n_types
        self._by_experiment = None

    def moments(self, first: int, last: int) -> _shift.Moments:
        """Of every type with each perturbation from `first` to `last`: row type x perturbation."""
        chosen = self.labelled & (self.perturbations >= first) & (self.perturbations < last)
        codes = np.where(chosen, self.types * (last - first) + self.perturbations - first, -1)
        return self._moments(codes, self.n_types * (last - first))

    def _moments(self, codes: np.ndarray, n: int) -> _shift.Moments:
        everywhere = np.full(self.cells.adata.n_obs, -1)
        everywhere[self.cells.chosen] = codes
        return _shift.moments(self.cells.X, everywhere, n)

    def matched(self, base: _shift.Moments, control: int, p: int) -> np.ndarray:
        """Mean of the control cells of each type, experiments as frequent as among its cells with perturbation `p`.

        So the difference between experiments is not taken for the response. An experiment without control cells of
        the type is left out; without any, the control cells stay as they are.
        """
        if self.n_experiments == 1:
            return base.mean
        codes, shape = self.types * self.n_experiments + self.experiments, (self.n_types, self.n_experiments)
        if self._by_experiment is None:
            here = self.labelled & (self.perturbations == control)
            self._by_experiment = self._moments(np.where(here, codes, -1), np.prod(shape))
        there = self.labelled & (self.perturbations == p)
        share = np.bincount(codes[there], minlength=np.prod(shape)) * (self._by_experiment.n_cells > 0)
        share = share.reshape(shape).astype(float)
        found = np.einsum("ke,keg->kg", share, self._by_experiment.mean.reshape(*shape, -1))
        total = share.sum(axis=1, keepdims=True)
        return np.where(total > 0, found / np.maximum(total, 1), base.mean)

    def decoded(self, control: int) -> np.ndarray:
        """Mean counts per 10,000 (perturbations, types, genes) of control cells, decoded with every perturbation."""
        model, n_perturbations = self.model, len(self.model.perturbations)
        most = max(10, _DECODED // (n_perturbations * self.n_types))  # of each type, which keeps large screens quick
        chosen = []
        for k in range(self.n_types):
            own = self.cells.chosen[(self.types == k) & (self.perturbations == control)]
            chosen.append(own[:: -(-len(own) // most)] if len(own) else own)
        cells = self.cells
        cells = type(cells)(cells.adata, np.concatenate(chosen), cells.ids, cells.X, cells.size_factors)
        sums = np.zeros((n_perturbations, self.n_types, len(model.get_var_names())))
        sizes = np.zeros((self.n_types, 1))
        for batch in cells.batches(model.device, _CHUNK):
            mu, _ = model._encode(batch)
            member = one_hot(batch.cell_types, self.n_types).T.double()
            sizes += member.sum(dim=1, keepdim=True).cpu().numpy()
            for p in range(n_perturbations):
                ids = torch.full_like(batch.perturbations, p)
                scale = model.module.net.scale(mu, batch.cell_types, ids, batch.experiments)
                sums[p] += (member @ scale.double()).cpu().numpy()
        return 1e4 * sums / np.maximum(sizes, 1)
