"""Training: SVI over data, a history of its terms, and a clean stop at a loss that is not finite."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.programs import Snapshot
from pyro_infomax.training._batches import (
    IndexedBatches as IndexedBatches,
    WholeBatch as WholeBatch,
)
from pyro_infomax.training._callbacks import (
    BestWeights,
    Callback,
    EarlyStopping,
    LearningRateSchedule,
    ScalarLogger,
    TrainingState,
)
from pyro_infomax.training._checkpoint import Checkpoint
from pyro_infomax.training._fit import (
    NonFiniteLossError,
    StepsOfEpoch as StepsOfEpoch,
    fit,
    stand_in as stand_in,
)
from pyro_infomax.training._history import History

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
]

explain_wrong_arguments(__name__)
