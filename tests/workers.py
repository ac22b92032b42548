"""Cases that several processes of `torch.distributed` go through side by side, over gloo."""

import datetime
import importlib
import json
import os
import traceback

import torch
from filelock import FileLock  # torch needs it itself
from torch import distributed as dist
from torch import multiprocessing

from processes import METHOD


def nothing(rank):
    """Prepare nothing."""
    return ()


def run_in_workers(n, module, tmp_path_factory, prepare=nothing):
    """Run a module's ``CASES`` in n processes; return for each process what went wrong, by case.

    Each case is called with what `prepare` returns in its process. Of pytest-xdist's processes the first that asks runs
    them, the others wait for what comes out.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / module
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            _start_workers(n, module, folder, prepare)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(n)]


def _start_workers(n, module, folder, prepare):
    multiprocessing.start_processes(_work, (n, module, folder, prepare), nprocs=n, start_method=METHOD)


def _work(rank, n, module, folder, prepare):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=n,
        timeout=datetime.timedelta(seconds=120),
    )
    given = prepare(rank)
    wrong = {}
    for name, case in importlib.import_module(module).CASES.items():
        try:
            case(*given)
        except BaseException:
            wrong[name] = traceback.format_exc()
        finally:
            (folder / f"{rank}.json").write_text(json.dumps(wrong))
        dist.barrier()
    dist.destroy_process_group()
