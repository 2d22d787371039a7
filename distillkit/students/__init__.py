"""Students: stock transformers models, built from a source model with an account of every weight."""

from distillkit.students.albert import build_albert
from distillkit.students.counting import ParameterCount, count_parameters
from distillkit.students.distilbert import build_distilbert
from distillkit.students.pretrained import build_pretrained
from distillkit.students.shallow import build_shallow
from distillkit.students.transfer import BuiltStudent, TransferReport

__all__ = [
    "BuiltStudent",
    "ParameterCount",
    "TransferReport",
    "build_albert",
    "build_distilbert",
    "build_pretrained",
    "build_shallow",
    "count_parameters",
]
