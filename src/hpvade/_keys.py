"""Every slot name that hpvade reads or writes in an AnnData, in one place."""


class Keys:
    """Names of obs, obsm, varm and uns entries."""

    SIGNATURES = "hpvade_signatures"
    """varm: learned signatures (genes x types), mean UMI counts per cell."""

    PROPORTIONS = "hpvade_proportions"
    """obsm: fractions of cells (samples x types), the default of ``key_added``."""

    TRUE_PROPORTIONS = "proportions"
    """obsm of simulated or measured bulk: the true fractions of cells."""

    TRUE_RNA_PROPORTIONS = "rna_proportions"
    """obsm of simulated bulk: the true fractions of RNA."""

    @staticmethod
    def rna(key: str) -> str:
        """obsm: fractions of RNA that belong to the cell fractions in `key`."""
        return f"{key}_rna"

    @staticmethod
    def nnls(key: str) -> str:
        """obsm: non-negative least squares on the same bulk, the baseline shown beside `key`."""
        return f"{key}_nnls"

    @staticmethod
    def mapping(truth_key: str) -> str:
        """uns: how reference types add up to the truth's columns, ``{type: column}``."""
        return f"{truth_key}_mapping"
