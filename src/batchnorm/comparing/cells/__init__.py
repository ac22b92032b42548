"""The trainings of a comparison: each a run folder, trained here or in processes of their own, and read again.

A cell knows nothing of the plan that it is part of.
"""

from batchnorm.comparing.cells.cell import Cell, Outcome, Teller
from batchnorm.comparing.cells.pool import Told, remove_left_data, train_in_processes
from batchnorm.comparing.cells.records import MOMENTS, Record, read_record

__all__ = [
    "MOMENTS",
    "Cell",
    "Outcome",
    "Record",
    "Teller",
    "Told",
    "read_record",
    "remove_left_data",
    "train_in_processes",
]
