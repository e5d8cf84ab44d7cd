"""One run of ``hpvade cycleae train``: from settings to the folder of results."""

import json
import shutil
from pathlib import Path

from ._io import complete, note_results
from ._progress import training_options
from ._run import read


def run(settings: dict, output: Path, checkpoint: Path | None, *, allow_pickle: bool) -> None:
    """Train, or go on from `checkpoint`, and write every result to `output`."""
    import scvi
    from lightning.pytorch.loggers import TensorBoardLogger

    from ..models.cycleae._chunk_files import ChunkDataModule
    from ..models.cycleae._history_file import HistoryFile
    from ..models.cycleae._model import CycleAE
    from ._fit import quiet

    quiet()
    for path in (Path(settings[name]) for name in ("data_dir", "vocab", "specs")):
        read(path)
    progress = training_options()
    data = ChunkDataModule(
        settings["data_dir"],
        expr_glob=settings["expr_glob"],
        meta_glob=settings["meta_glob"],
        vocab=settings["vocab"],
        specs=_included(Path(settings["specs"]), settings["include"]),
        allow_pickle=allow_pickle,
        **{
            name: settings[name]
            for name in ("genes", "split_by", "missing", "num_workers", "prefetch_factor")
            + ("batch_workers", "batch_prefetch_factor")
        },
    )
    scvi.settings.seed = settings["seed"]
    model = CycleAE(
        registry=data.registry,
        n_latent=settings["latent_dim"],
        **{name: settings[name] for name in ("activation", "scale", "nonnegative")},
    )
    output.mkdir(parents=True, exist_ok=True)
    for name, document in {"config.json": settings, "metadata_field_specs.json": data.specs}.items():
        with complete(output / name, provenance=False) as part:
            part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not (output / "metadata_vocab.json").exists():
        shutil.copyfile(settings["vocab"], output / "metadata_vocab.json")
    model.train(
        settings["num_epochs"],
        accelerator=settings["device"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        checkpoint_dir=str(output / "checkpoints"),
        ckpt_path=None if checkpoint is None else str(checkpoint),
        datamodule=data,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
        **progress | {"callbacks": [HistoryFile(output / "history.csv"), *progress.get("callbacks", [])]},
    )
    with complete(output / "head_influence.csv", provenance=False) as part:
        model.get_head_influence(datamodule=data).to_csv(part)
    model.save(output / "model")
    note_results(output)


def _included(path: Path, include: list[str]) -> dict:
    """Specifications of the fields, with `using` for those of `include` when there are any."""
    specs = json.loads(path.read_text("utf-8"))
    if absent := [name for name in include if name not in specs]:
        raise ValueError(f"include names {absent[0]!r}, which is not in {path}; found {', '.join(specs)}.")
    return {name: spec | {"using": name in include} if include else spec for name, spec in specs.items()}
