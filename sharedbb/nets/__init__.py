"""The torch modules: backbones with taps, necks, heads, and the network that joins them."""

from sharedbb.nets.backbones import Backbone
from sharedbb.nets.multihead import MultiHead, build
from sharedbb.nets.necks import Fpn
from sharedbb.nets.weights import read_state

__all__ = ["Backbone", "Fpn", "MultiHead", "build", "read_state"]
