"""TraceGraph_ELBO with weights."""

from pyro.infer import TraceGraph_ELBO

from pyro_infomax.infer.weighted_elbo import Trace, WeightedELBO

__all__ = ["WeightedGraphELBO"]


class WeightedGraphELBO(WeightedELBO, TraceGraph_ELBO):
    """Sampled log-probabilities; score-function gradients that know which sites depend on which."""

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._record_sampled(model_trace, guide_trace)
