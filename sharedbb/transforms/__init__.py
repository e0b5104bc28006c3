"""From a frame in whatever form to the network's input."""

from sharedbb.transforms.rgb import RgbIntake

__all__ = ["RgbIntake"]
