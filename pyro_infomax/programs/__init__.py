"""Reading a Pyro program datum by datum: sites, plates, layout, local programs, their state.

What stands here is for sister rooms, not for users.
"""

from pyro_infomax.programs._layout import SiteLayout, factors_by_datum as factors_by_datum
from pyro_infomax.programs._local_program import (
    GlobalLatentsError as GlobalLatentsError,
    LocalProgram,
    global_values as global_values,
    is_masked as is_masked,
    leaves_out as leaves_out,
    score_under as score_under,
)
from pyro_infomax.programs._messengers import (
    FixedMessenger as FixedMessenger,
    Placeholder as Placeholder,
    ProgramStopped as ProgramStopped,
    RowsMessenger as RowsMessenger,
    ValuesMessenger as ValuesMessenger,
    needs_data as needs_data,
    no_placeholder_parameters as no_placeholder_parameters,
)
from pyro_infomax.programs._state import (
    ProgramState,
    RandomStreams as RandomStreams,
    Snapshot as Snapshot,
    check_fits as check_fits,
    is_of_programs as is_of_programs,
)

__all__ = ["LocalProgram", "ProgramState", "SiteLayout"]
