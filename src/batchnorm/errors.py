"""What can go wrong, and whose it is to mend."""


class BatchnormError(Exception):
    """Something went wrong on the way; the command line answers it with exit code 1."""


class InputError(BatchnormError, ValueError):
    """What the user gave cannot be used; the command line answers it with exit code 2."""


class DatasetUnavailableError(BatchnormError):
    """A data set is neither on this machine nor to be had.

    Parameters
    ----------
    why, remedy : str
        Together they are the message.
    """

    def __init__(self, why: str, remedy: str):
        super().__init__(f"{why}; {remedy}")
        self.why = why


class DivergedError(BatchnormError):
    """The loss or a weight became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """The user stopped a training, which finished its step and, if it has a run folder, saved its state.

    Parameters
    ----------
    epoch, step : int
        How many epochs, and steps of the next one, are complete.
    exit_code : int
        What a process that ends for this reason exits with: 128 + the signal's number.
    """

    def __init__(self, epoch: int, step: int, exit_code: int):
        super().__init__(f"interrupted in epoch {epoch} after step {step}")
        self.epoch, self.step, self.exit_code = epoch, step, exit_code
