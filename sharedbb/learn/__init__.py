"""Learning: data, quality, losses, training and distillation, offline."""

from sharedbb.learn.data import Data, Sample, open_data
from sharedbb.learn.distillation import Distill
from sharedbb.learn.judge import HEADLINE, Predictor, headline, judge
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.trainer import Course, Trainer
from sharedbb.learn.training import Training

__all__ = [
    "HEADLINE",
    "VOID",
    "Boxes",
    "Course",
    "Data",
    "Distill",
    "Network",
    "Predictor",
    "Sample",
    "StepReport",
    "Trainer",
    "Training",
    "headline",
    "judge",
    "open_data",
]
