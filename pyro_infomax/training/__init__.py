"""Training: SVI over data, a history of its terms, and a clean stop at a loss that is not finite."""

from pyro_infomax.training.best_weights import BestWeights
from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.captured_svi import CapturedSVI
from pyro_infomax.training.checkpoint import Checkpoint
from pyro_infomax.training.early_stopping import EarlyStopping
from pyro_infomax.training.fitting import fit
from pyro_infomax.training.fused_optim import FusedOptim
from pyro_infomax.training.history import History
from pyro_infomax.training.learning_rate import LearningRateSchedule
from pyro_infomax.training.non_finite_loss import NonFiniteLossError
from pyro_infomax.training.scalar_logger import ScalarLogger
from pyro_infomax.training.snapshot import Snapshot
from pyro_infomax.training.sweeping import sweep

__all__ = [
    "BestWeights",
    "Callback",
    "CapturedSVI",
    "Checkpoint",
    "EarlyStopping",
    "FusedOptim",
    "History",
    "LearningRateSchedule",
    "NonFiniteLossError",
    "ScalarLogger",
    "Snapshot",
    "TrainingState",
    "fit",
    "sweep",
]
