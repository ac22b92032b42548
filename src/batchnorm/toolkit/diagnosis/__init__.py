"""What is wrong with a model's batch norm: evidence, a rule per fault, the gap that each layer causes."""

from batchnorm.toolkit.diagnosis.diagnosis import diagnose
from batchnorm.toolkit.diagnosis.report import Diagnosis, LayerReport
from batchnorm.toolkit.diagnosis.rules import Finding

__all__ = ["Diagnosis", "Finding", "LayerReport", "diagnose"]
