"""A process that trains cells: `python -m batchnorm.comparing.cells.worker DATA CELLS`.

It reads a cell per line of JSON from standard input, and answers with lines of JSON on standard output: how many
"epochs" are complete, a "warning", and at the end of each cell its "outcome". Where standard input ends, it stops after
the step that it is in, and saves: nobody waits for it any more. One process trains many cells, as importing takes
seconds.
"""

import _thread
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from batchnorm.comparing.cells.carrying import load_dataset
from batchnorm.comparing.cells.cell import Cell, Teller
from batchnorm.errors import BatchnormError, InputError, with_class

Cells = queue.SimpleQueue[Cell | None]


def work(data: Path, folder: Path, lines: TextIO, answers: TextIO) -> None:
    """Train the cells that come as lines, until there are no more."""

    def tell(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    cells: Cells = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines, cells), daemon=True).start()
    dataset = load_dataset(data)
    while (cell := cells.get()) is not None:
        try:
            tell(outcome=cell.train(dataset, folder, Teller(tell)))
        except InputError as error:
            tell(refused=str(error))
        except BatchnormError as error:
            tell(failed=str(error))
        except Exception as error:  # whatever it was: who waits for an answer gets one, and says it
            tell(failed=with_class(error))


def _read(lines: TextIO, cells: Cells) -> None:
    for line in lines:
        cells.put(Cell.from_dict(json.loads(line)))
    _thread.interrupt_main()  # as Ctrl-C does
    cells.put(None)  # Windows interrupts nobody who waits for a cell


def main() -> None:
    """Work as a process of its own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by who is started in the background of a shell
    torch.set_num_threads(1)  # as many processes as cores; and the same results however many there are
    with suppress(KeyboardInterrupt, BrokenPipeError):  # what was trained is saved, or will be trained again
        work(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin, answers)


if __name__ == "__main__":
    main()
