"""Every slot name that hpvade reads or writes in an AnnData, in one place."""


def check_key(key_added) -> None:
    """Refuse a name that results cannot be kept under: h5ad and zarr read a slash as a folder, and names are texts."""
    if not isinstance(key_added, str):
        raise TypeError(f"key_added is a {type(key_added).__name__}, {key_added!r}; expected a name, a text.")
    if not key_added or "/" in key_added:
        raise ValueError(f"key_added={key_added!r}; expected a name without slashes, which files could not keep.")


class Keys:
    """Names of obs, obsm, varm and uns entries."""

    SIGNATURES = "hpvade_signatures"
    """varm: learned signatures (genes x types), mean UMI counts per cell."""

    PROPORTIONS = "hpvade_proportions"
    """obsm: fractions of cells (samples x types), the default of ``key_added``."""

    HIERARCHY = "hpvade_hierarchy"
    """uns: the tree of `deconvolve_hierarchy`; start of the obsm keys of its levels."""

    DIAGNOSIS = "hpvade_qc"
    """uns: summary of `tl.diagnose`; start of the names of its columns in obs."""

    READ = "hpvade_read"
    """uns: the file that `io.read_bulk` or `io.read_reference` read, and what was found out about it."""

    GENE_MAP = "hpvade_gene_map"
    """uns: what `pp.map_genes` did to the names of genes."""

    TRUE_PROPORTIONS = "proportions"
    """obsm of simulated or measured bulk: the true fractions of cells."""

    TRUE_RNA_PROPORTIONS = "rna_proportions"
    """obsm of simulated bulk: the true fractions of RNA."""

    TECHNICAL = "hpvade_technical_keys"
    """uns: which columns of obs name library, data set and other technical units, for neighbourhood metrics."""

    AMBIENT_PROFILE = "ambient_profile"
    """varm of a clean reference: ambient profiles (genes x batches in the order of `AMBIENT_SHARE`), summing to one."""

    AMBIENT_REMOVED = "ambient_removed"
    """obs of a clean reference: the share of the counts of each cell that was removed."""

    AMBIENT_SHARE = "ambient_share"
    """uns of a clean reference: the ambient share of all counts of each batch (batches x "share")."""

    GENERATED = "hpvade_generated"
    """obs of an augmented reference: whether a model generated the cell."""

    LABEL_CHECK = "label_check"
    """uns: findings of `tl.check_labels`; start of the names of its columns in obs."""

    GROUPS = "compare_groups"
    """uns: results, messages and parameters of `tl.compare_groups`."""

    SORTED_PROFILES = "hpvade_sorted_profiles"
    """uns: types that `pp.add_sorted_profiles` added to a reference, and how far to trust them."""

    IVAE = "X_ivae"
    """obsm: latent vectors of `IVAE` (cells x latent)."""

    IVAE_BOTTLENECK = "X_ivae_bottleneck"
    """obsm: bottleneck of `IVAE` (cells x axes)."""

    CYCLEAE_LATENT = "X_cycleae"
    """obsm: hidden encodings of the base head of CycleAE."""

    CYCLEAE_INFLUENCE = "cycleae_head_influence"
    """uns: influence of the heads of CycleAE."""

    CYCLEAE_EFFECTS = "cycleae_effects"
    """varm: effects of contexts (genes x "field: category")."""

    TRANSLATED = "cycleae_translated"
    """uns of a translated reference: the target, ``{field: value}``."""

    SHIFT = "shift_context"
    """uns of cells moved by `pp.shift_context`: per context and type what was measured."""

    TRANSLATION = "cycleae_translation"
    """uns of a translated reference: per combination of contexts how many cells the change was measured with."""

    @staticmethod
    def rna(key: str) -> str:
        """obsm: fractions of RNA that belong to the cell fractions in `key`."""
        return f"{key}_rna"

    @staticmethod
    def nnls(key: str) -> str:
        """obsm: non-negative least squares on the same bulk, the baseline shown beside `key`."""
        return f"{key}_nnls"

    @staticmethod
    def bound(key: str, bound: str) -> str:
        """obsm: lower or upper bounds of the intervals around `key`."""
        return f"{key}_{bound}"

    @staticmethod
    def unknown(key: str) -> str:
        """Name in varm of the bulk: expression (CPM) of what no type explains; NaN for genes not in the model."""
        return f"{key}_unknown"

    @staticmethod
    def level(key: str, level: str) -> str:
        """obsm: fractions of cells at one level of the tree in ``uns[key]``; the types are the level ``"type"``."""
        return f"{key}_{level}"

    @staticmethod
    def solved(method: str) -> str:
        """obsm: what `tl.solve` found, the default of its ``key_added``."""
        return f"{method}_proportions"

    @staticmethod
    def diagnosis(key: str, what: str) -> str:
        """obs: what `tl.diagnose` says of each sample, such as its verdict."""
        return f"{key}_{what}"

    @staticmethod
    def mapping(truth_key: str) -> str:
        """uns: how reference types add up to the truth's columns, ``{type: column}``."""
        return f"{truth_key}_mapping"

    @staticmethod
    def of_label(key: str, what: str) -> str:
        """obs: what `pp.transfer_labels` or `tl.check_labels` says of each cell, such as a probability."""
        return f"{key}_{what}"
