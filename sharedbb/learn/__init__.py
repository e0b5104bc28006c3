"""Learning: data, quality, losses, training and distillation, offline."""

from sharedbb.learn.data import Data, Sample, open_data
from sharedbb.learn.distillation import Distill
from sharedbb.learn.judge import HEADLINE, Predictor, headline, judge
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.trainer import Course, Trainer

__all__ = [
    "HEADLINE",
    "VOID",
    "Boxes",
    "Course",
    "Data",
    "Distill",
    "Predictor",
    "Sample",
    "Trainer",
    "headline",
    "judge",
    "open_data",
]
