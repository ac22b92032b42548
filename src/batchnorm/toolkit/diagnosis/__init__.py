"""What is wrong with a model's batch norm: evidence, a rule per fault, the gap that each layer causes.

To add a fault, write a rule in `rules`, with its thresholds; `evidence` measures, `diagnosis` calls, `report` shows.
"""

from batchnorm.toolkit.diagnosis.diagnosis import diagnose
from batchnorm.toolkit.diagnosis.finding import Finding
from batchnorm.toolkit.diagnosis.gap import Gap
from batchnorm.toolkit.diagnosis.report import Diagnosis, LayerReport

__all__ = ["Diagnosis", "Finding", "Gap", "LayerReport", "diagnose"]
