"""Methods of scvi-tools on count distributions, without those that this model cannot answer."""

from scvi.model.base import RNASeqMixin

from .._differential import DifferentialExpression


class CountMethods(DifferentialExpression, RNASeqMixin):
    """scvi's methods on expression; they need ``likelihood="nb"``, and draw z with torch's generator."""

    def get_normalized_expression(self, *args, **kwargs):
        """Denoised expression of cells, see scvi-tools; ``transform_batch`` is an experiment.

        :meth:`get_counterfactual_expression` decodes the mean of z instead, for either likelihood.
        """
        self._require_counts()
        return super().get_normalized_expression(*args, **kwargs)

    def get_likelihood_parameters(self, *args, **kwargs):
        """Means and inverse dispersions of the counts, see scvi-tools."""
        self._require_counts()
        return super().get_likelihood_parameters(*args, **kwargs)

    def get_latent_library_size(self, *args, **kwargs):
        """Refused: the library of a cell is observed."""
        raise NotImplementedError(
            "the library of a cell is its total counts. Use get_counterfactual_expression(library_size='latent')."
        )

    def get_importance_weights(self, *args, **kwargs):
        """Refused: scvi's weights need a latent library."""
        raise NotImplementedError(
            "importance weights need a latent library. Use predict(method='elbo'), which has its own."
        )

    def _require_counts(self) -> None:
        if self.module.net.config.likelihood == "mse":
            raise NotImplementedError(
                "likelihood='mse' has no count distribution. Use get_counterfactual_expression(), whose rows sum to "
                "`library_size` for either likelihood."
            )
        if self.adata is not None:
            self._check_if_trained(warn=False)
