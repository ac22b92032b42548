"""How many requests a served run answers in a second on this machine, and how long each waits.

A run on a table of 569 rows and 30 numbers (scikit-learn's breast cancer, the default network) is served by a process
of its own; clients in this one each keep a connection and ask again as soon as they are answered. What they need
themselves is taken from the server, where there are few processors. The first second warms up and does not count.

pip install -c constraints.txt ".[all]"
python benchmarks/serving.py --threads 1 --seconds 10
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet
import typer
from sklearn.datasets import load_breast_cancer

from batchnorm.tables import train_table

CLIENTS, ROWS = (1, 16, 64), (1, 100)


def make_table(folder: Path) -> tuple[Path, list[dict[str, float]]]:
    """Write the table; return its file, and its inputs as rows."""
    data = load_breast_cancer()
    columns = {str(name): column for name, column in zip(data.feature_names, data.data.T, strict=True)}
    table = pa.table(columns)
    classes = pa.array(data.target_names[data.target])
    pyarrow.parquet.write_table(table.append_column("class", classes), folder / "t.parquet")
    return folder / "t.parquet", table.to_pylist()


@contextmanager
def serving(run: Path, threads: int) -> Iterator[tuple[str, int]]:
    """Serve a run in a process of its own; yield its host and port."""
    command = [sys.executable, "-m", "batchnorm", "serve", run, "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = urlsplit(process.stdout.readline().split()[-1])
            yield url.hostname, url.port
        finally:
            process.terminate()


def request_of(rows: list[dict[str, float]]) -> bytes:
    body = json.dumps({"rows": rows}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def ask(address: tuple[str, int], request: bytes, begin: float, end: float) -> list[float]:
    """Ask until the end; return the seconds that each answer took which was asked for after the beginning."""
    reader, writer = await asyncio.open_connection(*address)
    taken = []
    while (asked := time.perf_counter()) < end:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200"):
            sys.exit(f"refused: {head}")
        await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        if asked >= begin:
            taken.append(time.perf_counter() - asked)
    writer.close()
    return taken


async def load(address: tuple[str, int], request: bytes, clients: int, seconds: float) -> list[float]:
    begin = time.perf_counter() + 1
    answers = await asyncio.gather(*(ask(address, request, begin, begin + seconds) for _ in range(clients)))
    return [taken for answer in answers for taken in answer]


def main(
    threads: Annotated[int, typer.Option(help="Of the server.")] = 1,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 10.0,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, rows = make_table(Path(name))
        train_table([path], ["class"], out=Path(name) / "run")
        print("| clients | rows a request | requests a second | rows a second | median, ms | 99 %, ms |")
        print("|---|---|---|---|---|---|")
        with serving(Path(name) / "run", threads) as address:
            for n in ROWS:
                for clients in CLIENTS:
                    taken = asyncio.run(load(address, request_of(rows[:n]), clients, seconds))
                    rate, (p50, p99) = len(taken) / seconds, (statistics.quantiles(taken, n=100)[i] for i in (49, 98))
                    print(f"| {clients} | {n} | {rate:,.0f} | {rate * n:,.0f} | {1e3 * p50:.1f} | {1e3 * p99:.1f} |")


if __name__ == "__main__":
    typer.run(main)
