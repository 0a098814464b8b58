"""Flows: from a context to a distribution with an exact density, by a bijection of noise."""

from pyro_infomax.flows.building import to_flow
from pyro_infomax.flows.coupling_flow import CouplingFlow
from pyro_infomax.flows.flow import Flow
from pyro_infomax.flows.flow_distribution import FlowDistribution
from pyro_infomax.flows.lazy_flow import LazyFlow
from pyro_infomax.flows.transform_flow import TransformFlow

__all__ = ["CouplingFlow", "Flow", "FlowDistribution", "LazyFlow", "TransformFlow", "to_flow"]
