"""A run on disk: its folder, what it was begun with, and what it ran on."""

from batchnorm.training.runs.environment import describe_session
from batchnorm.training.runs.folder import Checkpoint, RunFolder, resume_command
from batchnorm.training.runs.plan import Plan, check_same, load_plan

__all__ = ["Checkpoint", "Plan", "RunFolder", "check_same", "describe_session", "load_plan", "resume_command"]
