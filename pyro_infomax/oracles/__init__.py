"""Problems whose answer is known in closed form. An oracle imports nothing that it judges."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.oracles._bottleneck import (
    GaussianInformationBottleneck,
    InformationBottleneck,
    gaussian_information_bottleneck,
    information_bottleneck,
)
from pyro_infomax.oracles._discrete_vae import DiscreteVAE
from pyro_infomax.oracles._explaining_away import ExplainingAway
from pyro_infomax.oracles._linear_gaussian import LinearGaussian
from pyro_infomax.oracles._problems import (
    Asinh,
    CorrelatedNormals,
    CorrelatedStudent,
    HalfCube,
    InformationProblem,
    NormalCdf,
    Spiral,
    TransformedProblem,
    UniformNoise,
    dense_covariance,
    information_problems,
    sparse_covariance,
)
from pyro_infomax.oracles._rate_distortion import (
    ChannelCapacity,
    GaussianRateDistortion,
    RateDistortion,
    blahut_arimoto,
    channel_capacity,
    gaussian_rate_distortion,
    rate_distortion,
)

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

explain_wrong_arguments(__name__)
