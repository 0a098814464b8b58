"""Training: SVI over data, a history of its terms, and a clean stop at a loss that is not finite."""

from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.early_stopping import EarlyStopping
from pyro_infomax.training.fitting import fit
from pyro_infomax.training.history import History
from pyro_infomax.training.non_finite_loss import NonFiniteLossError
from pyro_infomax.training.snapshot import Snapshot

__all__ = [
    "Callback",
    "EarlyStopping",
    "History",
    "NonFiniteLossError",
    "Snapshot",
    "TrainingState",
    "fit",
]
