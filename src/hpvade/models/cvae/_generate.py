"""From a trained network to new cells: what training cells look like, synthetic cells, fuller references."""

from contextlib import contextmanager

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch.nn.functional import one_hot

from ..._keys import Keys
from ...nn._likelihood import nb_log_likelihood

_CHUNK = 2048  # cells decoded at a time
_THETA = (0.1, 100.0)  # bounds of the inverse dispersion to start from


@torch.no_grad()
def initialise(model, train: np.ndarray) -> None:
    """Start the network from the training cells: mean, dispersion, scale of size factors, categories that occur."""
    cells = model._read(None, train)
    conditions = np.stack([cells.of(key) for key in ("labels", "perturbation", "batch")], axis=1)
    _, group, sizes = np.unique(conditions, axis=0, return_inverse=True, return_counts=True)
    group, n_groups = torch.from_numpy(group.reshape(-1)), len(sizes)
    # residuals around the mean of n cells are too small by (n - 1) / n; a cell of its own says nothing
    unbiased = torch.from_numpy(np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 0.0))
    sums, factors = torch.zeros(n_groups, len(model.get_var_names()), dtype=torch.float64), 0.0
    for batch in cells.batches(torch.device("cpu"), _CHUNK):
        sums += one_hot(group[batch.rows], n_groups).double().T @ batch.x.double()
        factors += float(batch.library.sum())
    profiles = sums / sums.sum(dim=1, keepdim=True)
    squares = excess = 0.0
    for batch in cells.batches(torch.device("cpu"), _CHUNK):
        of = group[batch.rows]
        mean = batch.x.sum(dim=1, keepdim=True) * profiles[of]
        excess = excess + (unbiased[of, None] * (batch.x - mean).square() - mean * (unbiased[of, None] > 0)).sum(dim=0)
        squares = squares + (mean.square() * (unbiased[of, None] > 0)).sum(dim=0)
    # the variance of counts is mean + mean^2 / theta: by moments, around the mean of the cell's condition
    theta = (squares / excess.clamp(min=1e-12)).clamp(*_THETA)
    seen = {
        name: torch.from_numpy(np.isin(np.arange(len(model._vocabularies[key])), cells.of(key)))
        for name, key in (("cell_type", "labels"), ("perturbation", "perturbation"), ("experiment", "batch"))
    }
    seen["cell_type"][-1] = False  # cells without a label are no type
    model.module.initialise(sums.sum(dim=0).float() / len(cells), theta.float(), float(sums.sum()) / factors, seen)


@torch.no_grad()
def fit_prior(model, train: np.ndarray) -> None:
    """Keep what `generate` needs of the training cells: latent distributions, totals, experiments per condition."""
    net = model.module.net
    cells = model._read(None, train)
    mu, variance, totals = (np.zeros((len(cells), n), np.float32) for n in (*[net.config.latent_dim] * 2, 1))
    types = cells.of("labels")
    for batch in cells.batches(model.device, _CHUNK):
        m, logvar = model._encode(batch)
        mu[batch.rows], variance[batch.rows] = m.cpu().numpy(), logvar.exp().cpu().numpy()
        totals[batch.rows] = batch.library.cpu().numpy()
    ids = np.stack([types, cells.of("perturbation"), cells.of("batch")], axis=1)
    known = types != model.module.unknown
    ids = ids[known]
    model.prior_size_ = tuple(len(np.unique(ids[:, :n], axis=0)) for n in (2, 3))
    net.allocate_prior(*model.prior_size_)
    tensors = (mu[known], variance[known], totals[known, 0], ids)
    net.prior.fit(*(torch.from_numpy(values).to(model.device) for values in tensors))


def generate(model, n_samples: int, names, *, library_size: float | None, seed: int | None, unseen: str) -> AnnData:
    """See `ConditionalVAE.generate`."""
    if n_samples < 1 or (library_size is not None and not 0 < library_size < np.inf):
        raise ValueError(f"n_samples={n_samples}, library_size={library_size}; expected more than 0.")
    keys = ("labels", "perturbation", "batch")
    if names[1] is None:
        if len(model.perturbations) > 1:
            raise ValueError(f"perturbation is None; expected names out of {model.perturbations[:20]}.")
        names = (names[0], model.perturbations[0], names[2])
    lists = [value if value is None or not isinstance(value, str) else [value] for value in names]
    lengths = {len(value) for value in lists if value is not None} - {1}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"labels, perturbation and experiment have {sorted(lengths)} names; expected lists of equal length, or one."
        )
    n = lengths.pop() if lengths else 1
    lists = [value if value is None or len(value) == n else list(value) * n for value in lists]
    ids = [
        None if value is None else np.repeat(model._vocabularies[key].ids(value, unseen), n_samples)
        for key, value in zip(keys, lists, strict=True)
    ]
    with seeded(seed):
        if ids[2] is None:
            ids[2] = _draw_experiments(model, *ids[:2])
        counts = _draw(model, ids, library_size)
    obs = {}
    for key, value, codes in zip(keys, lists, ids, strict=True):
        vocabulary = model._vocabularies[key]
        if vocabulary.column is not None:
            given = np.asarray([*vocabulary.names, "<UNK>"])[codes] if value is None else np.repeat(value, n_samples)
            obs[vocabulary.column] = pd.Categorical(given)
    index = [f"generated-{i}" for i in range(len(ids[0]))]
    return AnnData(counts, obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=model.get_var_names()))


def _draw(model, ids, library_size: float | None) -> sparse.csr_matrix:
    net, blocks = model.module.net, []
    for start in range(0, len(ids[0]), _CHUNK):
        part = [torch.from_numpy(values[start : start + _CHUNK]).to(model.device) for values in ids]
        library = None if library_size is None else torch.full((len(part[0]), 1), float(library_size)).to(model.device)
        blocks.append(sparse.csr_matrix(net.generate_counts(*part, library=library).cpu().numpy()))
    return sparse.vstack(blocks, format="csr")


def _draw_experiments(model, types: np.ndarray, perturbations: np.ndarray) -> np.ndarray:
    """Experiments as training cells have them; their mean for a checkpoint from the middle of training."""
    prior = model.module.net.prior
    if prior is None:
        return np.full(len(types), model._vocabularies["batch"].unknown)
    pairs = (torch.from_numpy(values).to(model.device) for values in (types, perturbations))
    return prior.draw_experiments(*pairs).cpu().numpy()


def augment(model, adata: AnnData | None, *, min_cells: int, pairs: bool, seed: int | None) -> AnnData:
    """See `ConditionalVAE.augment_reference`."""
    if min_cells < 1:
        raise ValueError(f"min_cells={min_cells}; expected at least 1.")
    own = adata is None or adata is model.adata
    adata = model._require_data() if adata is None else adata
    cells = model._read(adata, None, used=("labels", "perturbation", "batch"))
    if model._vocabularies["labels"].column not in adata.obs:
        raise KeyError(f"{model._vocabularies['labels'].column!r} is not a column of adata.obs; the labels are needed.")
    usable = np.ones(adata.n_obs, dtype=bool)
    if own and model.train_indices is not None:
        usable = np.isin(np.arange(adata.n_obs), model.train_indices)  # nothing of the held-out cells leaks
    if Keys.GENERATED in adata.obs:
        usable &= ~adata.obs[Keys.GENERATED].to_numpy(dtype=bool)
    with seeded(seed):
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        templates, targets = _templates(model, cells, usable, min_cells, pairs, rng)
        counts = _redraw(model, cells, templates, targets)
    obs = adata.obs.iloc[templates].copy()
    column = model._vocabularies["perturbation"].column
    if column is not None:
        changed = np.asarray([*model._vocabularies["perturbation"].names, "<UNK>"])[targets]
        names = obs[column].astype(str).where(cells.ids["perturbation"][templates] == targets, changed)
        obs[column] = pd.Categorical(names)
    obs.index = _new_names(adata.obs_names, len(obs))
    obs[Keys.GENERATED] = True
    real = adata.obs.drop(columns=[c for c in adata.obs if c.startswith("_scvi_")]).copy()
    if Keys.GENERATED not in real:
        real[Keys.GENERATED] = False
    merged = pd.concat([real.astype(object), obs[real.columns].astype(object)])
    for name, dtype in real.dtypes.items():
        merged[name] = (
            pd.Categorical(merged[name]) if isinstance(dtype, pd.CategoricalDtype) else merged[name].astype(dtype)
        )
    own = cells.X[:] if adata.isbacked else cells.X
    own = own.astype(np.float32) if own.dtype == np.float16 else own  # SciPy has no half precision
    X = sparse.vstack([sparse.csr_matrix(own), counts], format="csr")
    return ad.AnnData(X.astype(np.float32), obs=merged, var=adata.var.copy())


def _templates(model, cells, usable, min_cells, pairs, rng) -> tuple[np.ndarray, np.ndarray]:
    """Real cells to draw around, and the perturbation of each new cell."""
    types, perturbations = cells.ids["labels"], cells.ids["perturbation"]
    chosen, targets = [], []
    for k in range(len(model.cell_types)):
        wanted = range(len(model.perturbations)) if pairs else [None]
        for p in wanted:
            here = (types == k) if p is None else (types == k) & (perturbations == p)
            lacking = min_cells - int(here.sum())
            if lacking <= 0 or not (types == k).any():
                continue
            for source in (here & usable, here, (types == k) & usable, types == k):
                if source.any():
                    break
            drawn = _spread(np.flatnonzero(source), lacking, rng)
            chosen.append(drawn)
            targets.append(perturbations[drawn] if p is None else np.full(lacking, p))
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *chosen]), np.concatenate([none, *targets])


def _spread(cells: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` of the cells, each equally often up to one."""
    return np.concatenate([rng.permutation(cells) for _ in range(-(-n // len(cells)))])[:n]


@torch.no_grad()
def _redraw(model, cells, templates: np.ndarray, targets: np.ndarray) -> sparse.csr_matrix:
    """New counts around real cells: z from their posterior, decoded with `targets`, with their totals."""
    if not len(templates):
        return sparse.csr_matrix((0, len(model.get_var_names())), dtype=np.float32)
    correction = torch.ones(len(model.cell_types) + 1, len(model.get_var_names()), device=model.device)
    for k in np.unique(cells.ids["labels"][templates]):
        own = np.unique(templates[cells.ids["labels"][templates] == k])
        correction[k] = _correction(model, cells, own)
    cells.chosen = templates
    blocks = np.empty(len(templates), dtype=object)
    net = model.module.net
    for batch in cells.batches(model.device, _CHUNK):
        mu, logvar = model._encode(batch)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        wanted = torch.from_numpy(targets[batch.rows]).to(model.device)
        totals = batch.x.sum(dim=1, keepdim=True)
        scale = net.scale(z, batch.cell_types, wanted, batch.experiments) * correction[batch.cell_types]
        counts = net.draw_counts(scale / scale.sum(dim=1, keepdim=True) * totals).cpu().numpy()
        for row, values in zip(batch.rows, counts, strict=True):
            blocks[row] = sparse.csr_matrix(values)
    return sparse.vstack(list(blocks), format="csr")


def _correction(model, cells, own: np.ndarray) -> torch.Tensor:
    """Factor (genes,) by which the real cells `own` of a type exceed what the network expects of them.

    The summed counts of a gene are gamma-Poisson around the expected ones, ratio ~ Gamma(a, a); its posterior mean is
    (a + observed) / (a + expected). A network that fits the type has a large a, and is left as it is.
    """
    cells.chosen = own
    observed = expected = 0.0
    for batch in cells.batches(model.device, _CHUNK):
        mu, _ = model._encode(batch)
        scale = model.module.net.scale(mu, batch.cell_types, batch.perturbations, batch.experiments)
        observed = observed + batch.x.sum(dim=0).double()
        expected = expected + (scale * batch.x.sum(dim=1, keepdim=True)).sum(dim=0).double()
    grid = torch.logspace(-2, 4, 49, dtype=torch.float64, device=model.device)
    fit = torch.stack(
        [nb_log_likelihood(observed[None], expected[None], a.expand_as(observed)).squeeze() for a in grid]
    )
    a = grid[fit.argmax()]
    return ((a + observed) / (a + expected)).float()


def _new_names(taken: pd.Index, n: int) -> list[str]:
    prefix = "generated"
    while taken.str.startswith(f"{prefix}-").any():
        prefix += "_"
    return [f"{prefix}-{i}" for i in range(n)]


@contextmanager
def seeded(seed: int | None):
    """Random numbers of torch from `seed` inside the block, the caller's generator as it was afterwards; None: none."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
