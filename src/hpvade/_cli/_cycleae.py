"""``hpvade cycleae``: train on chunked cells, rewrite cells into other contexts, compare fields."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._cycleae_config import job_script, read_config, template
from ._errors import UsageError, reported
from ._io import check_folder, check_input, check_output, complete, read_reference
from ._run import tell

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.cycleae._model import CycleAE

cycleae = typer.Typer(
    name="cycleae",
    help="Expression as a shared part plus one part per metadata field; cells rewritten into other contexts.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
VOCAB, SPECS = "metadata_vocab.json", "metadata_field_specs.json"
_Model = Annotated[
    Path, typer.Option("--model", metavar="DIR", help="Folder of `train` or of `CycleAE.save`.", show_default=False)
]
_Data = Annotated[
    Path,
    typer.Option(
        "--data", metavar="F", help="Cells x genes, raw counts: .h5ad, or .npz with --meta.", show_default=False
    ),
]
_Meta = Annotated[Path | None, typer.Option("--meta", metavar="F", help="Metadata of the cells of an .npz file.")]

_AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Also read metadata in .pkl, which execute code: only your own.")
]


def preprocess(
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the metadata files.", show_default=False)],
    pattern: Annotated[str, typer.Option(metavar="GLOB", help="Their names.")] = "human_metadata_*.pkl",
    save_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; DIR/preproc of the data by default.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Field to use; repeat it.")] = None,
    include_file: Annotated[
        Path | None, typer.Option(metavar="F", help="Text file, one field per line; # starts a comment.")
    ] = None,
    vocab_json_name: Annotated[str, typer.Option(metavar="NAME", help="File of the vocabularies.")] = VOCAB,
    specs_json_name: Annotated[str, typer.Option(metavar="NAME", help="File of the specifications.")] = SPECS,
    ignore_column: Annotated[
        list[str] | None, typer.Option(metavar="C", help="Column to leave out beside _source_file; repeat it.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print one line per field.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and describe, write nothing.")] = False,
    allow_pickle: _AllowPickle = False,
) -> None:
    """Describe the metadata columns of many files, and number their values.

    Example: `hpvade cycleae preprocess --data-dir chunks --pattern "meta_*.csv" --include tissue --save-dir specs`
    """
    check_input(data_dir, folder=True)
    save_dir = data_dir / "preproc" if save_dir is None else save_dir
    files = sorted(data_dir.glob(pattern))
    if not files:
        raise UsageError(f"{data_dir} has no files {pattern!r}.")
    outputs = {save_dir / vocab_json_name, save_dir / specs_json_name}
    if not dry_run and (existing := sorted(str(path) for path in outputs if path.exists())):
        raise UsageError(f"{existing[0]} exists. Choose another folder or name.")
    fields = list(include or [])
    if include_file is not None:
        check_input(include_file)
        lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in include_file.read_text("utf-8").splitlines())
        fields += [line for line in lines if line]
    from ..models.cycleae._contexts import build_context_specs, vocab_to_json

    ignored = ["_source_file", *(ignore_column or [])]  # a column that tools of these files add, not metadata
    vocab, specs = build_context_specs(files, fields, ignore=ignored, allow_pickle=allow_pickle)
    if verbose or dry_run:
        for name, spec in specs.items():
            used = "used" if spec["using"] else "not used"
            filled = f"{spec['non_null_fraction']:.1%} filled"
            tell(f"{name}: {spec['kind']}, {spec['cardinality']} values, {filled}, {used}")
    if dry_run:
        return
    save_dir.mkdir(parents=True, exist_ok=True)
    texts = {vocab_json_name: vocab_to_json(vocab), specs_json_name: json.dumps(specs, indent=1) + "\n"}
    for name, text in texts.items():
        with complete(save_dir / name, provenance=False) as partial:
            partial.write_text(text, encoding="utf-8")
    tell(f"{save_dir}: {len(specs)} fields of {len(files)} files, {sum(s['using'] for s in specs.values())} used.")


def init_config(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="F.yaml", help="The file.", show_default=False)],
    slurm: Annotated[bool, typer.Option("--slurm", help="Also write a job script beside it.")] = False,
) -> None:
    """Write a commented configuration for `hpvade cycleae train --config`."""
    check_output(output, ".yaml", ".yml")
    texts = {output: template()} | ({output.with_suffix(".slurm"): job_script(output)} if slurm else {})
    if existing := [path for path in texts if path.exists()]:
        raise UsageError(f"{existing[0]} exists. Choose another name.")
    for path, text in texts.items():
        with complete(path, provenance=False) as partial:
            partial.write_text(text, encoding="utf-8")
        tell(f"{path}: fill in the values marked EDIT_ME.")


def train(
    config: Annotated[Path | None, typer.Option(metavar="F.yaml", help="Settings; options below come on top.")] = None,
    data_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Folder with the chunks.")] = None,
    meta_glob: Annotated[str | None, typer.Option(metavar="GLOB", help="Names of the metadata files.")] = None,
    expr_glob: Annotated[str | None, typer.Option(metavar="GLOB", help="Names of the expression files.")] = None,
    vocab: Annotated[str | None, typer.Option(metavar="F.json", help="Vocabularies of `preprocess`.")] = None,
    specs: Annotated[str | None, typer.Option(metavar="F.json", help="Specifications of `preprocess`.")] = None,
    genes: Annotated[
        str | None, typer.Option(metavar="F.txt", help="Gene names, one per line; genes.txt beside the chunks.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Field to use; repeat it.")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="Of both optimisers; 1e-3.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Cells per step; 128.")] = None,
    num_epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the data; 10.")] = None,
    batch_workers: Annotated[int | None, typer.Option(metavar="N", help="Threads that make minibatches; 0.")] = None,
    batch_prefetch_factor: Annotated[
        int | None, typer.Option(metavar="N", help="Minibatches per thread that may wait; 2.")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(metavar="D", help="Size of the hidden encodings; 128.")] = None,
    output_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for the results.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed; 0.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, gpu or mps; auto.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")] = False,
    allow_pickle: _AllowPickle = False,
) -> None:
    """Train on chunks of cells.

    Example: `hpvade cycleae train --config run.yaml`

    The folder of results holds model/, tensorboard/, checkpoints/, history.csv, head_influence.csv, config.json and
    the two metadata files. An interrupted run goes on with --resume.
    """
    given = {name: value for name, value in locals().items() if name not in ("config", "resume", "allow_pickle")}
    if config is not None:
        check_input(config)
    settings = read_config(config, given)
    output, last = Path(settings["output_dir"]), Path(settings["output_dir"]) / "checkpoints" / "last.ckpt"
    check_input(Path(settings["data_dir"]), folder=True)
    for name in ("vocab", "specs"):
        check_input(Path(settings[name]))
    if resume:
        _check_resume(output, last, settings)
    else:
        check_folder(output, overwrite=False, hint="Choose another folder, or pass --resume to go on with its run.")
    from ._cycleae_run import run

    checkpoint = last if resume and last.exists() else None
    run(settings, output, checkpoint, allow_pickle=allow_pickle)
    tell(f"{output}: trained for {settings['num_epochs']} epochs.")


def _check_resume(output: Path, last: Path, settings: dict) -> None:
    """The run in `output` must have the same settings, but for the number of epochs and the device."""
    check_input(output, folder=True)
    check_input(output / "config.json")
    if (output / "model").exists():
        raise UsageError(f"{output} holds a model: its run is complete.")
    earlier = json.loads((output / "config.json").read_text("utf-8"))
    free = ("num_epochs", "device")
    changed = [name for name, value in settings.items() if name not in free and earlier.get(name) != value]
    if changed:
        raise UsageError(f"{output} was started with other values of {', '.join(changed)}; expected the same.")


def counterfactual(
    model: _Model,
    data: _Data,
    assignments: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Target; repeat it.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="The file.", show_default=False)],
    meta: _Meta = None,
    allow_pickle: _AllowPickle = False,
) -> None:
    """Expression of cells as if they were in another context.

    Example: `hpvade cycleae counterfactual --model run/ --data cells.h5ad --set tissue=liver -o out.h5ad`
    """
    check_output(output, ".h5ad")
    if output.exists():
        raise UsageError(f"{output} exists. Choose another name.")
    pairs = [text.partition("=") for text in assignments]
    if wrong := [text for text, (_, equals, _) in zip(assignments, pairs, strict=True) if not equals]:
        raise UsageError(f"--set {wrong[0]}: expected FIELD=VALUE.")
    fitted = _load(model)
    adata = _cells(fitted, data, meta, allow_pickle)
    # text of the command line to the value of the model, which may be a number or a boolean
    context = {f: next((v for v in fitted.categories.get(f, []) if str(v) == text), text) for f, _, text in pairs}
    table = fitted.get_counterfactual_expression(adata, context=context)
    import anndata as ad

    obs = adata.obs.drop(columns=[c for c in adata.obs if str(c).startswith("_scvi")])
    result = ad.AnnData(table.to_numpy(), obs=obs.assign(**context), var=adata.var)
    with complete(output) as partial:
        result.write_h5ad(partial)
    tell(f"{output}: {result.n_obs} cells x {result.n_vars} genes, {fitted.module.scale} scale.")


def influence(
    model: _Model,
    data: _Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="F.csv", help="The file.", show_default=False)],
    meta: _Meta = None,
    allow_pickle: _AllowPickle = False,
) -> None:
    """How much each field contributes to the expression of cells: mean, minimum and maximum per head.

    Example: `hpvade cycleae influence --model run/ --data cells.h5ad -o influence.csv`
    """
    check_output(output, ".csv")
    if output.exists():
        raise UsageError(f"{output} exists. Choose another name.")
    fitted = _load(model)
    table = fitted.get_head_influence(_cells(fitted, data, meta, allow_pickle))
    with complete(output) as partial:
        table.to_csv(partial)
    tell(f"{output}: {len(table)} heads.")


def _load(folder: Path) -> "CycleAE":
    """The model in a folder of `train`, or of `CycleAE.save`."""
    check_input(folder, folder=True)
    from ..models.cycleae._model import CycleAE
    from ._fit import quiet

    quiet()
    return CycleAE.load(folder / "model" if (folder / "model").is_dir() else folder)


def _cells(model: "CycleAE", data: Path, meta: Path | None, allow_pickle: bool) -> "AnnData":
    """Cells of an .h5ad file, or of an .npz file with its metadata."""
    genes = model.get_var_names()
    if data.suffix != ".npz":
        adata = read_reference(data)
        if all(str(gene) == f"gene_{i}" for i, gene in enumerate(genes)) and not set(genes) & set(adata.var_names):
            raise UsageError(
                "the model was trained without gene names, so its genes cannot be found in this file. Train it with "
                "--genes F.txt (or a genes.txt beside the chunks), or give the cells as .npz with --meta."
            )
        return adata
    check_input(data)
    if meta is None:
        raise UsageError(f"{data} holds no metadata; pass the file beside it with --meta.")
    check_input(meta)
    from ..models.cycleae._chunk_files import cells_of_files

    return cells_of_files(data, meta, genes, allow_pickle=allow_pickle)


for _name, _command in {
    "preprocess": preprocess,
    "init-config": init_config,
    "train": train,
    "counterfactual": counterfactual,
    "influence": influence,
}.items():
    cycleae.command(_name, no_args_is_help=True)(reported(_command, "cycleae"))
