"""Problems whose answer is known in closed form. An oracle imports nothing that it judges."""

from .bijections import Asinh, HalfCube, NormalCdf, Spiral
from .blahut import blahut_arimoto
from .bottleneck import (
    GaussianInformationBottleneck,
    InformationBottleneck,
    gaussian_information_bottleneck,
    information_bottleneck,
)
from .channel import ChannelCapacity, channel_capacity
from .correlated_normals import CorrelatedNormals, dense_covariance, sparse_covariance
from .correlated_student import CorrelatedStudent
from .discrete_vae import DiscreteVAE
from .explaining_away import ExplainingAway
from .information_problem import InformationProblem
from .linear_gaussian import LinearGaussian
from .problem_set import information_problems
from .source_coding import RateDistortion, rate_distortion
from .transformed_problem import TransformedProblem
from .uniform_noise import UniformNoise
from .water_filling import GaussianRateDistortion, gaussian_rate_distortion

__all__ = [
    "Asinh",
    "ChannelCapacity",
    "CorrelatedNormals",
    "CorrelatedStudent",
    "DiscreteVAE",
    "ExplainingAway",
    "GaussianInformationBottleneck",
    "GaussianRateDistortion",
    "HalfCube",
    "InformationBottleneck",
    "InformationProblem",
    "LinearGaussian",
    "NormalCdf",
    "RateDistortion",
    "Spiral",
    "TransformedProblem",
    "UniformNoise",
    "blahut_arimoto",
    "channel_capacity",
    "dense_covariance",
    "gaussian_information_bottleneck",
    "gaussian_rate_distortion",
    "information_bottleneck",
    "information_problems",
    "rate_distortion",
    "sparse_covariance",
]
