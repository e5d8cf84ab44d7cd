"""One training run of CycleAE: data, start, plan, and what is kept for the tables."""

import numpy as np
import torch

from ...train._checkpoint import fingerprint, read_own_checkpoint
from ...train._fit import fit
from ._context_data import ContextDataModule
from ._context_means import context_means
from ._module import TERMS, draw_targets

EXTRA = ("identity", "effect")


def loss_weights(given: dict[str, float] | None) -> dict[str, float]:
    """Weight of every term; ValueError for unknown names, for numbers below zero and when nothing is left."""
    given = dict(given or {})
    if unknown := sorted(set(given) - set(TERMS)):
        raise ValueError(f"loss_weights names {unknown}; expected some of {list(TERMS)}.")
    weights = dict.fromkeys(TERMS, 1.0) | given
    if bad := [name for name, value in weights.items() if not 0 <= value < np.inf]:
        raise ValueError(f"loss_weights[{bad[0]!r}]={weights[bad[0]]}; expected a number that is not negative.")
    if not any(weights.values()):
        raise ValueError("loss_weights are all zero; expected at least one above zero.")
    return weights


def run(
    model,
    data: ContextDataModule,
    *,
    max_epochs: int,
    learning_rate: float,
    weights: dict[str, float],
    normalize_losses: bool,
    effect_l2: float,
    classifier_warmup_epochs: int,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    early_stopping: bool,
    checkpoint_dir: str | None,
    ckpt_path: str | None,
    accelerator: str,
    **trainer_kwargs,
) -> None:
    """Split, start, train, and keep the means that the tables need."""

    def describe() -> dict:
        return fingerprint(model, None if data.in_memory else data.fingerprint())

    seed = int(torch.randint(2**31, ()))
    data.split(train_size, validation_size, seed)
    if ckpt_path is not None:
        state = read_own_checkpoint(ckpt_path, describe()).get(type(data).__name__)
        if state is None:
            raise ValueError(f"{ckpt_path} was made from other files, or from cells in memory; expected the same data.")
        data.load_state_dict(state)
    data.batch_size = batch_size
    if not data.n_train:
        raise ValueError("there are no training cells.")
    module = model.module
    means = context_means(data, module.n_codes, np.random.default_rng(data.seed), log1p=module.scale == "log1p")
    profiles = [torch.as_tensor(p, dtype=torch.float32) for p in means.profiles]
    found = (means.combinations, means.residuals, means.n_cells, means.measured)
    levels = None if means.levels is None else torch.as_tensor(means.levels)
    module.shift.fit(profiles, *map(torch.as_tensor, found), levels)

    def initialise() -> None:
        module.generator.to("cpu")
        if model.start == "data":
            source = module.by_field(torch.as_tensor(means.sample_codes))
            effects = dict(zip(model.fields, profiles, strict=True))
            module.generator.start_from(torch.as_tensor(means.sample), source, effects)
            return
        batch = next(iter(data.stream(data.train_idx, shuffle=True)))
        generator = torch.Generator().manual_seed(data.seed)
        source = batch["context"]
        target = draw_targets(source, module.n_categories.cpu(), generator)
        x = module.scaled(batch["X"])
        module.generator.calibrate(x, module.by_field(source), module.by_field(target))

    fit(
        model,
        data,
        initialise=None if model.is_trained_ or ckpt_path is not None else initialise,
        plan_kwargs={
            "lr": learning_rate,
            "draw": draw_targets,
            "extra": any(weights[name] for name in EXTRA),
            "seed": data.seed,
            "loss_weights": weights,
            "normalize_losses": normalize_losses,
            "effect_l2": effect_l2,
            "classifier_warmup_epochs": classifier_warmup_epochs,
            "variance": means.variance,
        },
        max_epochs=max_epochs,
        early_stopping=early_stopping,
        checkpoint_dir=checkpoint_dir,
        alarm=False,
        accelerator=accelerator,
        ckpt_path=ckpt_path,
        describe=describe,
        **trainer_kwargs,
    )
    _keep_means(module, data)


@torch.inference_mode()
def _keep_means(module, data: ContextDataModule) -> None:
    """Mean hidden encodings and frequencies over the training cells, from which all effects follow."""
    total, n = torch.zeros_like(module.hidden_mean, dtype=torch.float64), 0
    for batch in data.stream(data.train_idx, shuffle=False):
        x, source = module.scaled(batch["X"].to(module.device)), batch["context"].to(module.device)
        hidden = module.generator.encode(x, module.by_field(source))
        total += torch.stack([h.double().sum(dim=0) for h in hidden.values()])
        n += len(x)
    module.hidden_mean.copy_(total / n)
    shares = []
    for f, size in enumerate(module.n_codes):
        codes = data.codes[data.train_idx, f]
        shares.append(np.bincount(codes[codes >= 0], minlength=size) / max((codes >= 0).sum(), 1))
    module.frequencies.copy_(torch.as_tensor(np.concatenate(shares)))
