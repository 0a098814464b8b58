"""Nats from tensors: the aggregate posterior, and every quantity that compares with it."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.information._account import Account, SiteAccount
from pyro_infomax.information._aggregate import AggregatePosterior
from pyro_infomax.information._control_variates import note_on as note_on
from pyro_infomax.information._critic_training import (
    OptimizerFactory as OptimizerFactory,
    OptimizerOperations as OptimizerOperations,
    adam as adam,
    load_trained_state as load_trained_state,
    logistic_loss as logistic_loss,
    minimise as minimise,
    scores_of as scores_of,
    trained_state as trained_state,
)
from pyro_infomax.information._critics import critic_bound, critic_information
from pyro_infomax.information._decoder import barber_agakov, decoder_gap
from pyro_infomax.information._draws import Draws
from pyro_infomax.information._estimate import Estimate, mean_of_draws as mean_of_draws, spread as spread
from pyro_infomax.information._evidence import (
    AnnealedRun,
    AnnealedState,
    Annealing,
    ImportanceWeights,
    importance_weighted_bound,
    sigmoid_schedule,
    temperatures_of as temperatures_of,
)
from pyro_infomax.information._minibatch import (
    BatchMixture,
    info_nce,
    minibatch_stratified,
    minibatch_weighted,
)
from pyro_infomax.information._mixture_engine import (
    for_one_evaluation as for_one_evaluation,
    points_at_once as points_at_once,
)
from pyro_infomax.information._mmd import (
    RBF,
    InverseMultiquadric,
    Kernel as Kernel,
    batch_mmd as batch_mmd,
    batch_sliced_wasserstein as batch_sliced_wasserstein,
    directions_like as directions_like,
    mmd,
    sliced_wasserstein,
)
from pyro_infomax.information._quantities import (
    active_units,
    conditional_total_correlation,
    dimensionwise_kl,
    gaussian_total_correlation,
    held_out_gap as held_out_gap,
    leave_one_out,
    marginal_kl,
    mutual_information,
    prior_dependence,
    prior_gap,
    rate,
    total_correlation,
    training_gap as training_gap,
)
from pyro_infomax.information._sites import (
    AggregateScorer as AggregateScorer,
    Prefixes as Prefixes,
    ShardedAggregate as ShardedAggregate,
    WholeAggregate as WholeAggregate,
    sums_of as sums_of,
)

__all__ = [
    "RBF",
    "Account",
    "AggregatePosterior",
    "AnnealedRun",
    "AnnealedState",
    "Annealing",
    "BatchMixture",
    "Draws",
    "Estimate",
    "ImportanceWeights",
    "InverseMultiquadric",
    "SiteAccount",
    "active_units",
    "barber_agakov",
    "conditional_total_correlation",
    "critic_bound",
    "critic_information",
    "decoder_gap",
    "dimensionwise_kl",
    "gaussian_total_correlation",
    "importance_weighted_bound",
    "info_nce",
    "leave_one_out",
    "marginal_kl",
    "minibatch_stratified",
    "minibatch_weighted",
    "mmd",
    "mutual_information",
    "prior_dependence",
    "prior_gap",
    "rate",
    "sigmoid_schedule",
    "sliced_wasserstein",
    "total_correlation",
]

explain_wrong_arguments(__name__)
