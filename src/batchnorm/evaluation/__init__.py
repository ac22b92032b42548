"""A trained network on one part of a data set: accuracy, loss and confusion of classes, the errors of values."""

from batchnorm.evaluation.evaluating import BLOCK_SIZE, evaluate, inference_form, network_outputs
from batchnorm.evaluation.results import AnyEvaluation, Evaluation, LabelsEvaluation, ValuesEvaluation

__all__ = [
    "BLOCK_SIZE",
    "AnyEvaluation",
    "Evaluation",
    "LabelsEvaluation",
    "ValuesEvaluation",
    "evaluate",
    "inference_form",
    "network_outputs",
]
