"""A run on disk: its folder, what it was begun with, and what it ran on."""

from batchnorm.training.runs.environment import describe_session, differences
from batchnorm.training.runs.folder import Checkpoint, RunFolder, population_of
from batchnorm.training.runs.holding import (
    LAYERS,
    HeldFolder,
    can_go_on_after,
    how_ended,
    report_command,
    resume_command,
)
from batchnorm.training.runs.listing import TABLE_FILE, accept_edits, differing_fields, holds_run, list_runs
from batchnorm.training.runs.plan import (
    Plan,
    check_same,
    holds_seeds,
    load_plan,
    load_plan_of_one,
    load_summary,
    save_summary,
)
from batchnorm.training.runs.schema import check_sessions
from batchnorm.training.runs.sealing import Line, Seal

__all__ = [
    "LAYERS",
    "TABLE_FILE",
    "Checkpoint",
    "HeldFolder",
    "Line",
    "Plan",
    "RunFolder",
    "Seal",
    "accept_edits",
    "can_go_on_after",
    "check_same",
    "check_sessions",
    "describe_session",
    "differences",
    "differing_fields",
    "holds_run",
    "holds_seeds",
    "how_ended",
    "list_runs",
    "load_plan",
    "load_plan_of_one",
    "load_summary",
    "population_of",
    "report_command",
    "resume_command",
    "save_summary",
]
