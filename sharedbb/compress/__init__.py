"""Compression, offline: smaller and faster networks, one step after another, each ``Network`` to the next.

Every step is a function ``step(network, ...) -> (network, report)`` that leaves its argument as it was. Nothing of this
room is needed to run what it made. What needs a package of the extra ``compress`` says so when it is asked.
"""

from sharedbb.compress.cluster import cluster
from sharedbb.compress.code import code
from sharedbb.compress.distill import distill, student
from sharedbb.compress.factorize import factorize
from sharedbb.compress.finetune import finetune
from sharedbb.compress.prune import prune
from sharedbb.compress.quantize import quantize
from sharedbb.compress.sensitivity import sensitivity
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

__all__ = [
    "Network",
    "StepReport",
    "cluster",
    "code",
    "distill",
    "factorize",
    "finetune",
    "prune",
    "quantize",
    "sensitivity",
    "student",
]
