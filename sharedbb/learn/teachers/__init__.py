"""Trained networks to learn from: opening them, reading their outputs, and keeping what they answer."""

from sharedbb.learn.teachers.answers import answered, known_of
from sharedbb.learn.teachers.formats import FORMATS, Format, Wanted, register_format
from sharedbb.learn.teachers.heads import Precision, TeacherHead
from sharedbb.learn.teachers.opening import open_teacher
from sharedbb.learn.teachers.teacher import Teacher, at_threshold

__all__ = [
    "FORMATS",
    "Format",
    "Precision",
    "Teacher",
    "TeacherHead",
    "Wanted",
    "answered",
    "at_threshold",
    "known_of",
    "open_teacher",
    "register_format",
]
