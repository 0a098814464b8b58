"""Encoders and decoders, likelihoods, and the heads that make distributions of features."""

from pyro_infomax.nn.convolution import ConvDecoder, ConvEncoder
from pyro_infomax.nn.delta_head import DeltaHead
from pyro_infomax.nn.discrete_heads import BernoulliHead, CategoricalHead, OneHotHead, discrete_head
from pyro_infomax.nn.distribution_head import DistributionHead
from pyro_infomax.nn.features import check_features, prototype_features
from pyro_infomax.nn.flow_head import FlowHead
from pyro_infomax.nn.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    to_likelihood,
)
from pyro_infomax.nn.low_rank_normal_head import LowRankNormalHead
from pyro_infomax.nn.mlp import MLP, MLPDecoder, MLPEncoder
from pyro_infomax.nn.multivariate_normal_head import MultivariateNormalHead
from pyro_infomax.nn.normal_head import NormalHead
from pyro_infomax.nn.prior import to_prior
from pyro_infomax.nn.registration import InstanceName, adopt, drop_weak_references, register
from pyro_infomax.nn.site_transform import SiteTransform
from pyro_infomax.nn.straight_through import StraightThroughBernoulli, StraightThroughOneHotCategorical

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
    "InstanceName",
    "Likelihood",
    "LowRankNormalHead",
    "MLPDecoder",
    "MLPEncoder",
    "MultivariateNormalHead",
    "NormalHead",
    "OneHotHead",
    "SiteTransform",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "adopt",
    "check_features",
    "discrete_head",
    "drop_weak_references",
    "prototype_features",
    "register",
    "to_likelihood",
    "to_prior",
]
