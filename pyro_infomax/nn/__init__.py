"""Encoders and decoders, likelihoods, and the heads that make distributions of features."""

from pyro_infomax.nn.convolution import ConvDecoder, ConvEncoder
from pyro_infomax.nn.features import check_features, prototype_features
from pyro_infomax.nn.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    to_likelihood,
)
from pyro_infomax.nn.mlp import MLP, MLPDecoder, MLPEncoder
from pyro_infomax.nn.normal_head import NormalHead
from pyro_infomax.nn.prior import to_prior
from pyro_infomax.nn.registration import InstanceName, adopt, drop_weak_references, register

__all__ = [
    "MLP",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "Gaussian",
    "InstanceName",
    "Likelihood",
    "MLPDecoder",
    "MLPEncoder",
    "NormalHead",
    "adopt",
    "check_features",
    "drop_weak_references",
    "prototype_features",
    "register",
    "to_likelihood",
    "to_prior",
]
