"""Encoders and decoders, likelihoods, critics, and the heads that make distributions of features."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.nn._critics import MLPCritic, QuadraticCritic, SeparableCritic
from pyro_infomax.nn._discrete_heads import (
    BernoulliHead,
    CategoricalHead,
    OneHotHead,
    Temperature as Temperature,
    check_discrete_options as check_discrete_options,
    discrete_head,
)
from pyro_infomax.nn._encoders import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    check_features as check_features,
    merge_batch as merge_batch,
    prototype_features as prototype_features,
)
from pyro_infomax.nn._heads import (
    DeltaHead,
    DistributionFamily as DistributionFamily,
    DistributionHead,
    FlowHead,
    LowRankNormalHead,
    MultivariateNormalHead,
    NormalHead,
    begins_linearly as begins_linearly,
    check_init_scale as check_init_scale,
    does_forward_alone as does_forward_alone,
)
from pyro_infomax.nn._likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    to_likelihood,
)
from pyro_infomax.nn._modules import (
    InstanceName as InstanceName,
    adopt as adopt,
    drop_weak_references as drop_weak_references,
    evaluation_mode as evaluation_mode,
    held_fixed as held_fixed,
    instance_prefix as instance_prefix,
    modules_behind as modules_behind,
    register as register,
)

__all__ = [
    "MLP",
    "Bernoulli",
    "BernoulliHead",
    "Categorical",
    "CategoricalHead",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DeltaHead",
    "DistributionHead",
    "FlowHead",
    "Gaussian",
    "Likelihood",
    "LowRankNormalHead",
    "MLPCritic",
    "MLPDecoder",
    "MLPEncoder",
    "MultivariateNormalHead",
    "NormalHead",
    "OneHotHead",
    "QuadraticCritic",
    "SeparableCritic",
    "discrete_head",
    "to_likelihood",
]

explain_wrong_arguments(__name__)
