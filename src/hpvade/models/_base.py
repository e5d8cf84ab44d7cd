"""What every hpvade model shares: a safe file format, genes checked by name, methods of scvi that work.

Longer than other files for the docstrings of the public methods.
"""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rich.pretty  # noqa: F401  scvi's view methods use it without importing it
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from .._text import check_adata, is_mudata, mudata_of, usual_modality
from ..io._atomic import locked
from ..io._positions import cell_positions
from ._card import write_card
from ._device import choose_device
from ._genes import refuse_other_genes
from ._manager import WeakManager, forget_with, keeping, weak
from ._saving import JSON_FILE, folder_of, load_tensors, read_data, read_document, read_tensors, write_model

_NOT_SAVED = ("registry_", "run_name_", "run_id_")  # saved apart; a time and an id of one run


class BaseModel(BaseModelClass):
    """Base of all hpvade models.

    List it last, after the mixins: ``class Model(VAEMethods, UnsupervisedTrainingMixin, BaseModel)``. The subclass
    accepts ``registry=None``, passes it to ``super().__init__(adata, registry)`` and ends its ``__init__`` with
    ``self.init_params_ = self._get_init_params(locals())``. Every attribute of the instance whose name ends with an
    underscore is saved; see :func:`hpvade.models._encoding.encode` for the types it may hold.
    """

    def __init__(self, adata: AnnData | MuData | None = None, registry: dict | None = None):
        super().__init__(self._own_modality(adata), registry)

    @classmethod
    def _own_modality(cls, adata: AnnData | MuData | None) -> AnnData | MuData | None:
        """Of a MuData, the modality that was set up, unless the family takes the MuData itself."""
        if not is_mudata(adata) or hasattr(cls, "setup_mudata"):
            return adata
        ids = {name: part.uns.get("_scvi_uuid") for name, part in adata.mod.items()}
        found = [name for name, own in ids.items() if own is not None and own in cls._setup_adata_manager_store]
        if len(found) == 1:
            return adata.mod[found[0]]
        one = (found or [usual_modality(adata.mod)])[0]
        raise ValueError(
            f"adata is {mudata_of(adata.mod)}, of which {len(found)} were set up; expected one. Run "
            f"{cls.__name__}.setup_anndata(mdata, modality={one!r}, ...) first, or pass mdata[{one!r}]."
        )

    def save(
        self,
        dir_path: str,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict | None = None,
        legacy_mudata_format: bool = False,
        datamodule=None,
        **anndata_write_kwargs,
    ) -> None:
        """Save the model to a folder: ``model.safetensors`` and ``model.json``, nothing executable.

        The folder is written whole or not at all, and the same model gives the same bytes.

        Parameters
        ----------
        dir_path
            Folder to write.
        prefix
            Put in front of the file names.
        overwrite
            Replace an earlier model in `dir_path`; other files in it are kept.
        save_anndata
            Also write the reference to ``adata.h5ad`` (a MuData to ``mdata.h5mu``); like every write of anndata, this
            turns text columns of `obs` and `var` into categories.
        save_kwargs, legacy_mudata_format, datamodule
            In scvi-tools' signature only; refused when given.
        **anndata_write_kwargs
            For :meth:`anndata.AnnData.write_h5ad`; need `save_anndata`.

        Raises
        ------
        ValueError
            `dir_path` exists and `overwrite` is False, or holds files of these names that hpvade did not write; an
            argument does not apply; there is no AnnData to save.
        TypeError
            An attribute of the model cannot be saved.
        """
        _refuse("save", save_kwargs=save_kwargs, legacy_mudata_format=legacy_mudata_format, datamodule=datamodule)
        if anndata_write_kwargs and not save_anndata:
            raise TypeError(
                f"save() got unknown options {sorted(anndata_write_kwargs)}; did you forget save_anndata=True?"
            )
        if save_anndata and (self.adata is None or self.adata.isbacked):
            found = "has no AnnData" if self.adata is None else f"reads its AnnData from {self.adata.filename}"
            raise ValueError(f"save_anndata=True, but the model {found}. Save without it, and pass `adata` to `load`.")
        attributes = {
            name: value
            for name, value in sorted(vars(self).items())
            if name.endswith("_") and not name.startswith("_") and name not in _NOT_SAVED
        }
        names = self.get_var_names()
        document = {
            "class_name": type(self).__name__,
            "var_names": {k: np.asarray(v) for k, v in names.items()} if isinstance(names, dict) else np.asarray(names),
            # keys that start with an underscore identify the AnnData object of this process
            "registry_": {key: value for key, value in self.registry_.items() if not key.startswith("_")},
            "attributes": attributes,
        }
        adata = self.adata if save_anndata else None
        write_model(
            dir_path, prefix or "", overwrite, document, self.module.state_dict(), adata, **anndata_write_kwargs
        )

    @classmethod
    def load(
        cls,
        dir_path: str,
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule=None,
        allowed_classes_names_list: list[str] | None = None,
    ):
        """Load a model from a folder written by :meth:`save`. Nothing in the folder is executed.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            AnnData with the genes of the model in the same order, or a MuData where the model was set up with one. None
            takes what was saved with the model, if anything; False loads without data.
        accelerator
            "auto", "cpu", "gpu" or "mps".
        device
            "auto", the number of the GPU, or a torch name such as "cuda:1".
        prefix
            Prefix of the file names.
        backup_url, datamodule
            In scvi-tools' signature only; refused when given.
        allowed_classes_names_list
            Names of other classes whose saved models are accepted.

        Raises
        ------
        FileNotFoundError
            There is no folder, or no model in it.
        ValueError
            The files were written by another program or class or by a newer hpvade, were changed or truncated, or do
            not fit the model; the genes of `adata` differ from the model's; the device is not there.
        """
        _refuse("load", backup_url=backup_url, datamodule=datamodule)
        if not (adata is None or adata is False or isinstance(adata, AnnData | MuData)):
            raise TypeError(f"adata is a {type(adata).__name__}; expected an AnnData (or MuData), None or False.")
        device, prefix = choose_device(accelerator, device), prefix or ""
        with locked(folder_of(dir_path), shared=True):  # no other process changes it in between
            document = read_document(dir_path, prefix)
            if document["class_name"] not in (cls.__name__, *(allowed_classes_names_list or [])):
                raise ValueError(
                    f"{dir_path} holds a {document['class_name']}, not a {cls.__name__}. Use "
                    f"{document['class_name']}.load, or name the class in `allowed_classes_names_list`."
                )
            tensors = read_tensors(dir_path, prefix, document)
            own = adata is None  # the cells are those of the folder, not the user's
            adata = read_data(dir_path, document) if own else None if adata is False else adata
        registry, attributes = document["registry_"], document["attributes"]
        if adata is not None:
            with _named(dir_path, cls, all_errors=own):
                part, modality = adata, registry["setup_args"].get("modality")
                if is_mudata(adata) and modality in adata.mod:
                    part = adata.mod[modality]
                refuse_other_genes(part, document["var_names"], f"{cls.__name__}.load({str(dir_path)!r}, adata=False)")
                setup = getattr(cls, registry["setup_method_name"])  # one of the two that there are
                setup(adata, source_registry=registry, **registry["setup_args"])
                adata = part
        with _named(dir_path, cls):
            model = cls(adata, registry=registry, **_init_arguments(attributes["init_params_"]))
            for name, value in attributes.items():
                if not name.isidentifier() or name.startswith("_") or name[-1] != "_" or hasattr(cls, name):
                    raise ValueError(f"{name!r} is no attribute of a saved model.")
                setattr(model, name, value)
            if hasattr(model.module, "on_load"):
                model.module.on_load(model, pyro_param_store=None)
        load_tensors(model.module, tensors, dir_path)
        model.to_device(device)
        model.module.eval()
        model._loaded()
        return model

    def _loaded(self) -> None:
        """For what a family writes to its data after training, and so after loading."""

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Also compare genes by name: scvi compares their number only, and gives wrong values for another order."""
        if adata is None:
            self._require_data()
        elif not isinstance(adata, kind := self._data_kind()):
            if kind is AnnData:
                check_adata(adata, "adata")
            raise TypeError(f"found a {type(adata).__qualname__}; expected a MuData, as at setup.")
        elif adata is not self.adata:
            refuse_other_genes(adata, self.get_var_names(), "model")
        if isinstance(adata, AnnData) and adata.is_view and copy_if_view:
            adata = adata.copy()  # scvi-tools would turn the user's view into one
        return super()._validate_anndata(adata, copy_if_view)

    def _make_data_loader(self, adata: AnnData | MuData, indices=None, *args, **kwargs):
        """Also refuse `indices` that choose no cell, or none of these."""
        return super()._make_data_loader(adata, cell_positions(adata.n_obs, indices), *args, **kwargs)

    def _data_kind(self) -> type:
        """AnnData or MuData, whichever the model was set up with."""
        return MuData if self.registry.get("setup_method_name") == "setup_mudata" else AnnData

    def get_from_registry(self, adata: AnnData | MuData, registry_key: str) -> np.ndarray:
        """Values of cells, those of the model or others, under the name that setup gave them; see scvi-tools."""
        if registry_key not in (known := self.registry["field_registries"]):
            raise KeyError(f"{registry_key!r} is not in the registry; found {list(known)}.")
        return super().get_from_registry(self._validate_anndata(adata), registry_key)

    def deregister_manager(self, adata: AnnData | None = None) -> None:
        """Forget AnnData objects that were set up, or one of them; ValueError for a model without data."""
        self._require_data()
        super().deregister_manager(adata)

    @staticmethod
    def load_registry(dir_path: str, prefix: str | None = None) -> dict:
        """Read the registry of a saved model: the arguments of `setup_anndata` and what they found in the data."""
        return read_document(dir_path, prefix or "")["registry_"]

    @staticmethod
    def write_card(dir_path: str, *, license_info: str, **about) -> Path:
        """Write a model card (``README.md``, as hubs of models show) beside a saved model, from what `save` wrote.

        Header and tags are those of scvi-tools' hub, whose own helper knows five classes only;
        ``_scvi_required_metadata.json`` is what its ``HubMetadata`` writes. Needs no network.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        license_info
            Licence of the model, such as ``"cc-by-4.0"``.
        **about
            What no file knows: `description`, `references` and `training_data_url` (text), `tissues` and
            `data_modalities` (lists; ``["rna"]``), and the `prefix` of the file names.

        Returns
        -------
        Path of the card.

        Raises
        ------
        FileNotFoundError, ValueError
            There is no model, or it is damaged.
        TypeError
            `about` has other names.

        Examples
        --------
        >>> import shutil, tempfile, hpvade as hp
        >>> folder = shutil.copytree(hp.datasets.blood_model(), tempfile.mkdtemp() + "/blood")
        >>> hp.HPVADE.write_card(folder, license_info="cc-by-4.0", tissues=["blood"]).name
        'README.md'
        """
        return write_card(dir_path, license_info=license_info, **about)

    @staticmethod
    def view_setup_args(dir_path: str, prefix: str | None = None) -> None:
        """Print the arguments of `setup_anndata` of a saved model."""
        AnnDataManager.view_setup_method_args(BaseModel.load_registry(dir_path, prefix))

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what `setup_anndata` registered; ValueError for a model without data."""
        self.view_anndata_setup(hide_state_registries=hide_state_registries)

    def view_anndata_setup(self, adata: AnnData | None = None, hide_state_registries: bool = False) -> None:
        """Print what `setup_anndata` registered for `adata`; ValueError for a model without data."""
        if adata is None and self.adata is None:
            raise ValueError("the model has no AnnData. `model.view_setup_method_args()` prints how it was set up.")
        super().view_anndata_setup(adata, hide_state_registries)

    def update_setup_method_args(self, setup_method_args: dict) -> None:
        """Change the arguments of `setup_anndata` that the registry keeps and `load` uses."""
        self.registry_["setup_args"].update(setup_method_args)

    @classmethod
    def convert_legacy_save(cls, *args, **kwargs):
        """Refused: hpvade never wrote such files."""
        raise NotImplementedError("hpvade has no older file format. Use `model.save(dir)` and `load(dir)`.")

    @classmethod
    def _register(cls, adata: AnnData | MuData, fields: list, setup_method_args: dict, **kwargs) -> None:
        """Register checked data, the last step of a setup; `kwargs` are those of the setup."""
        manager = WeakManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @property
    def adata_manager(self) -> AnnDataManager | None:
        """Manager of the model's data, see scvi-tools; who holds it keeps the data."""
        return None if self._adata_manager is None else keeping(self._adata_manager)

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Keep the manager of a setup for as long as its data live, see scvi-tools."""
        _keep(cls._setup_adata_manager_store, weak(adata_manager))

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        """Keep a manager of this model for as long as the model and the data live."""
        store = type(self)._per_instance_manager_store
        if self.id not in store:
            store[self.id] = {}
            forget_with(self, store, self.id)
        _keep(store[self.id], weak(adata_manager))

    def _require_data(self) -> AnnData | MuData:
        """Return the data of the model; ValueError when it was loaded without."""
        if self.adata is None:
            raise ValueError(
                "the model was loaded without data; expected cells. Pass `adata`, or load with "
                f"{type(self).__name__}.load(dir, adata)."
            )
        return self.adata

    def _require_trained(self, method: str) -> None:
        if not self.is_trained_:
            raise RuntimeError(f"{method} needs a trained model. Call `model.train()` first.")

    def _size(self, stats: dict) -> str:
        """Size of the data, for `repr`."""
        return f"{stats.get('n_cells')} cells x {stats.get('n_vars')} genes"

    def __repr__(self) -> str:
        """One line: the options that differ from the defaults, training and data."""
        init = inspect.signature(type(self).__init__).parameters
        arguments = _init_arguments(getattr(self, "init_params_", {}))
        options = ", ".join(
            f"{name}={value!r}"
            for name, value in arguments.items()
            if name not in init or repr(value) != repr(init[name].default)
        )
        epochs = max((len(values) for values in (self.history_ or {}).values()), default=0)
        status = f"trained for {epochs} epochs" if self.is_trained_ else "not trained"
        stats = dict(self.summary_stats)
        size = self._size(stats)
        labels = f", {stats['n_labels']} labels" if "n_labels" in stats else ""
        data = "" if self.adata is not None else ", without data"
        return f"<{type(self).__name__}({options}): {status}; {size}{labels}{data}>"


@contextlib.contextmanager
def _named(dir_path, cls: type, *, all_errors: bool = True) -> Iterator[None]:
    """Turn an error that values in a model's file lead to into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        if not all_errors:
            raise
        raise ValueError(
            f"the values in {Path(dir_path) / JSON_FILE} do not make a {cls.__name__}: {error} Use an unchanged copy, "
            "or the version of hpvade that saved it (`hpvade_version` in the file)."
        ) from error


def _refuse(method: str, **arguments) -> None:
    if given := sorted(name for name, value in arguments.items() if value):
        raise ValueError(
            f"{method}() does not use {', '.join(given)}: hpvade's files are not made by torch.save. Omit."
        )


def _keep(store: dict, manager: AnnDataManager) -> None:
    """Put a manager into one of scvi-tools' stores, until its data are freed."""
    earlier = store.get(manager.adata_uuid)
    store[manager.adata_uuid] = manager
    if earlier is None or earlier.adata is not manager.adata:
        forget_with(manager.adata, store, manager.adata_uuid)


def _init_arguments(init_params: dict) -> dict:
    """Flatten scvi's record of the arguments of ``__init__``."""
    arguments = dict(init_params.get("non_kwargs", {}))
    for extra in init_params.get("kwargs", {}).values():
        arguments |= extra
    return arguments
