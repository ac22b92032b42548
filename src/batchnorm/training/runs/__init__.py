"""A run on disk: its folder, what it was begun with, and what it ran on."""

from batchnorm.training.runs.environment import describe_session
from batchnorm.training.runs.folder import Checkpoint, RunFolder, resume_command
from batchnorm.training.runs.plan import Plan, check_same, holds_seeds, load_plan, load_summary, save_summary

__all__ = [
    "Checkpoint",
    "Plan",
    "RunFolder",
    "check_same",
    "describe_session",
    "holds_seeds",
    "load_plan",
    "load_summary",
    "resume_command",
    "save_summary",
]
