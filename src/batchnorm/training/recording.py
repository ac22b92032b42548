"""What a session leaves in the folder of a run: how long it was, how it ended; nothing where it was in vain."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from batchnorm.errors import BatchnormError
from batchnorm.training.identity import changes, describe_layers
from batchnorm.training.runs import RunFolder, can_go_on_after, how_ended


@contextmanager
def discarded_in_vain(folder: RunFolder | None) -> Iterator[None]:
    """Remove a new folder if its run fails before anything was saved in it: it would be in the way of the next try."""
    try:
        yield
    except Exception as error:
        if folder and not can_go_on_after(error):
            folder.discard()
        raise


@contextmanager
def recorded(folder: RunFolder | None, sessions: list[dict[str, Any]], network: nn.Module) -> Iterator[None]:
    """Hold a run's folder, and record in it the last of its sessions, how long it was and what it changed of layers."""
    if folder is None:
        yield
        return
    begun, layers = time.perf_counter(), describe_layers(network)
    with folder.locked():
        folder.save_sessions(sessions)
        try:
            yield
        except BaseException as error:
            if ended := how_ended(error):
                sessions[-1]["ended"] = ended
            raise
        finally:
            sessions[-1]["seconds"] = round(time.perf_counter() - begun, 3)
            if changed := changes(layers, describe_layers(network)):
                sessions[-1]["changed"] = changed
            with suppress(BatchnormError):  # what ended the session matters more than how long it was
                folder.save_sessions(sessions)
