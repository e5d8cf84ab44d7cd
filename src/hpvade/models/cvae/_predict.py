"""What a trained network says about given cells: labels, counterfactuals, effects of perturbations."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

_BATCH = 1024
_SEED = 20210907  # of the noise that predictions are averaged over: never the user's generator


@torch.no_grad()
def posterior(model, cells, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (cells, L) of z."""
    mu, variance = (np.zeros((len(cells), model.module.net.config.latent_dim), np.float32) for _ in range(2))
    for batch in cells.batches(model.device, batch_size or _BATCH):
        m, logvar = model._encode(batch)
        mu[batch.rows], variance[batch.rows] = m.cpu().numpy(), logvar.exp().cpu().numpy()
    return mu, variance


@torch.no_grad()
def predict(model, adata, indices, *, soft, n_samples, batch_size, method, unseen) -> pd.Series | pd.DataFrame:
    """See `ConditionalVAE.predict`."""
    net = model.module.net
    methods = {"classifier": _classify, "elbo": _by_bound, "reconstruction": _by_error}
    method = method or ("classifier" if net.config.classifier_weight > 0 else "elbo")
    if method not in methods:
        raise ValueError(f"method={method!r} is unknown; expected one of {list(methods)}.")
    if method == "classifier" and net.config.classifier_weight <= 0:
        raise ValueError("the model has no classifier (classifier_weight=0). Use method='elbo'.")
    if method == "reconstruction" and soft:
        raise ValueError("method='reconstruction' gives no probabilities. Use method='elbo', or soft=False.")
    if n_samples < 1:
        raise ValueError(f"n_samples={n_samples}; expected at least 1.")
    sees_all = net.config.encoder_conditioning == "all"
    used = ("batch",) if method == "classifier" and not sees_all else ("batch", "perturbation")
    cells = model._read(adata, indices, used=used, unseen=unseen)
    found = np.zeros((len(cells), len(model.cell_types)), np.float32)
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(n_samples, net.config.latent_dim, generator=generator).to(model.device)
    anyone = net.equal_types(1)  # the labels are not looked at
    for batch in cells.batches(model.device, batch_size or _BATCH):
        batch.cell_types = anyone.expand(len(batch.x), -1)
        found[batch.rows] = methods[method](model, batch, noise)[:, : len(model.cell_types)].cpu().numpy()
    index = cells.adata.obs_names[cells.chosen]
    if soft:
        return pd.DataFrame(found, index=index, columns=model.cell_types)
    names = pd.Categorical.from_codes(found.argmax(axis=1), model.cell_types)
    return pd.Series(names, index=index, name=model._vocabularies["labels"].column)


def _classify(model, batch, noise: Tensor) -> Tensor:
    """Probabilities by the classifier, mean over draws of z."""
    mu, logvar = model._encode(batch)
    scale = torch.exp(0.5 * logvar)
    return torch.stack([model.module.net.class_logits(mu + eps * scale).softmax(dim=1) for eps in noise]).mean(dim=0)


def _by_bound(model, batch, noise: Tensor) -> Tensor:
    """Softmax over types of log mean_s p(x | z_s, type) p(z_s) / q(z_s | x), the same draws for all types."""
    net = model.module.net
    mu, logvar = model._encode(batch)
    draws = [mu + eps * torch.exp(0.5 * logvar) for eps in noise]
    # log p(z) - log q(z|x), without what is the same for all types and draws
    weights = [0.5 * (eps.square() - z.square()).sum(dim=1) for eps, z in zip(noise, draws, strict=True)]
    bound = torch.full((len(mu), net.config.n_cell_types), -torch.inf, device=mu.device)
    for k in net.cell_types_seen():
        terms = [weight - model._candidate_error(batch, z, k) for weight, z in zip(weights, draws, strict=True)]
        bound[:, k] = torch.stack(terms).logsumexp(dim=0)
    return bound.softmax(dim=1)


def _by_error(model, batch, noise: Tensor) -> Tensor:
    """One for the type of least reconstruction error at the mean of z, else zero."""
    net = model.module.net
    mu, _ = model._encode(batch)
    errors = torch.full((len(mu), net.config.n_cell_types), torch.inf, device=mu.device)
    for k in net.cell_types_seen():
        errors[:, k] = model._candidate_error(batch, mu, k)
    return torch.nn.functional.one_hot(errors.argmin(dim=1), net.config.n_cell_types).float()


@torch.no_grad()
def counterfactual(model, adata, indices, target: dict, *, library_size, batch_size, unseen) -> pd.DataFrame:
    """See `ConditionalVAE.get_counterfactual_expression`."""
    if library_size != "latent" and not 0 < library_size < np.inf:
        raise ValueError(f"library_size={library_size!r}; expected a number above 0, or 'latent'.")
    keys = {"labels": "labels", "perturbation": "perturbation", "experiment": "batch"}
    ids = {
        name: None if target[name] is None else model._vocabularies[key].id(target[name], unseen)
        for name, key in keys.items()
    }
    cells = model._read(adata, indices, used=("labels", "perturbation", "batch"), unseen=unseen)
    values = np.empty((len(cells), len(model.get_var_names())), np.float32)
    for batch in cells.batches(model.device, batch_size or _BATCH):
        scale = decoded(model, batch, **ids)
        size = batch.library if library_size == "latent" else library_size
        values[batch.rows] = (scale * size).cpu().numpy()
    return pd.DataFrame(values, index=cells.adata.obs_names[cells.chosen], columns=model.get_var_names())


def decoded(
    model, batch, *, labels: int | None = None, perturbation: int | None = None, experiment: int | None = None
) -> Tensor:
    """Shares of genes (B, G) decoded from the mean of z, with the cells' own factors or the given ids."""
    mu, _ = model._encode(batch)
    known = model.module.net.known_types(batch.cell_types, mu)  # before the type is replaced
    types = known if labels is None else torch.full_like(batch.cell_types, labels)
    perturbations = batch.perturbations if perturbation is None else torch.full_like(batch.perturbations, perturbation)
    experiments = batch.experiments if experiment is None else torch.full_like(batch.experiments, experiment)
    return model.module.net.corrected_scale(mu, types, perturbations, experiments)


@torch.no_grad()
def perturbation_effects(model, adata, indices, control: str, *, min_cells: int, batch_size) -> pd.DataFrame:
    """See `ConditionalVAE.perturbation_effects`."""
    if min_cells < 1:
        raise ValueError(f"min_cells={min_cells}; expected at least 1.")
    base = model._vocabularies["perturbation"].id(control)
    cells = model._read(adata, indices, used=("labels", "perturbation", "batch"))
    types, perturbations = cells.of("labels"), cells.of("perturbation")
    tables, largest = [], 0
    for p, name in enumerate(model.perturbations):
        for k, kind in enumerate(model.cell_types):
            group = np.flatnonzero((perturbations == p) & (types == k))
            if p == base or len(group) < min_cells:
                largest = max(largest, len(group) if p != base else 0)
                continue
            effect = _effect(model, cells, cells.chosen[group], base, batch_size)
            tables.append(_summary(effect, name, kind, model.get_var_names()))
    if not tables:
        raise ValueError(
            f"no pair of perturbation and cell type has {min_cells} cells or more; the largest has {largest}. Lower "
            "min_cells."
        )
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def effects_by_perturbation(model, adata, control: str, batch_size) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Effect of every perturbation but the control over its cells of any type: mean and sd (G,), and how many they are.

    Cells are gone through once and not kept.
    """
    base = model._vocabularies["perturbation"].id(control)
    cells = model._read(adata, None, used=("labels", "perturbation", "batch"))
    perturbations, found = cells.of("perturbation"), {}
    for p, name in enumerate(model.perturbations):
        if p == base:
            continue
        n, mean, squares = 0, 0.0, 0.0
        for _, effect in _effects(model, cells, np.flatnonzero(perturbations == p), base, batch_size):
            size, own = len(effect), effect.mean(axis=0)
            step, n = own - mean, n + size  # groups joined as by Chan, Golub and LeVeque (1983)
            squares = squares + ((effect - own) ** 2).sum(axis=0) + step**2 * (n - size) * size / n
            mean = mean + step * size / n
        if n:
            found[name] = mean, np.sqrt(squares / n), n
    return found


def _effect(model, cells, numbers: np.ndarray, base: int, batch_size) -> np.ndarray:
    """Effects (cells, G) of cells, all in memory."""
    effect = np.empty((len(numbers), len(model.get_var_names())), np.float32)
    for rows, values in _effects(model, cells, numbers, base, batch_size):
        effect[rows] = values
    return effect


def _effects(model, cells, numbers: np.ndarray, base: int, batch_size) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Where a minibatch stands in `numbers`, and log2((x + 1) / (x_control + 1)) per 10,000 counts (cells, G) of it.

    Both are decoded from the mean of z.
    """
    cells = type(cells)(cells.adata, numbers, cells.ids, cells.X, cells.size_factors)
    for batch in cells.batches(model.device, batch_size or _BATCH):
        own, control = (1e4 * decoded(model, batch, perturbation=p) for p in (None, base))
        yield batch.rows, torch.log2((own + 1) / (control + 1)).double().cpu().numpy()


def _summary(effect: np.ndarray, perturbation: str, cell_type: str, genes) -> pd.DataFrame:
    mean = effect.mean(axis=0)
    lower, upper = np.quantile(effect, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "perturbation": perturbation,
            "cell_type": cell_type,
            "gene": np.asarray(genes),
            "mean_log2_fold_change": mean,
            "fold_change": 2.0**mean,
            "sd": effect.std(axis=0),
            "lower": lower,
            "upper": upper,
            "n_cells": len(effect),
            "direction_probability": (np.sign(effect) == np.sign(mean)).mean(axis=0),
        }
    )
