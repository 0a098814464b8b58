"""Training steps as one graph: record a step of SVI once, then replay or compile it; a fused optimiser."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.capture._captured_svi import CapturedSVI
from pyro_infomax.capture._optim import FusedOptim
from pyro_infomax.capture._stacked_graph import (
    StackedRecording as StackedRecording,
    StackedStep as StackedStep,
)
from pyro_infomax.capture._stacked_parameters import (
    NotStackableError as NotStackableError,
    StackedMember as StackedMember,
    StackedParameters as StackedParameters,
    stacked as stacked,
)

__all__ = ["CapturedSVI", "FusedOptim"]

explain_wrong_arguments(__name__)
