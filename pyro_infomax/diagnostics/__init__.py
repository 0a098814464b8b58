"""What a trained pair holds: the account of its nats, and its posterior for ArviZ."""

from pyro_infomax.diagnostics.arviz_groups import to_native
from pyro_infomax.diagnostics.decomposition import Decomposition, decompose
from pyro_infomax.diagnostics.inference_data import to_arviz
from pyro_infomax.diagnostics.pair import Pair, ScoredDraws

__all__ = ["Decomposition", "Pair", "ScoredDraws", "decompose", "to_arviz", "to_native"]
