"""Reading a Pyro program datum by datum: sites, plates, layout, local programs, their state."""

from pyro_infomax.programs._layout import SiteLayout
from pyro_infomax.programs._local_program import LocalProgram
from pyro_infomax.programs._messengers import (
    Placeholder,
    ProgramStopped,
    RowsMessenger,
    ValuesMessenger,
    needs_data,
    no_placeholder_parameters,
)
from pyro_infomax.programs._state import (
    ProgramState as ProgramState,
    RandomStreams as RandomStreams,
    Snapshot,
    is_of_programs as is_of_programs,
)

__all__ = [
    "LocalProgram",
    "Placeholder",
    "ProgramStopped",
    "RowsMessenger",
    "SiteLayout",
    "Snapshot",
    "ValuesMessenger",
    "needs_data",
    "no_placeholder_parameters",
]
