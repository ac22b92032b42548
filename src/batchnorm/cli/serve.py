"""The command that serves: predictions of a run over HTTP."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from batchnorm.cli.app import PATH, Threads, app, given, plan_of_one_run, start_torch
from batchnorm.errors import BatchnormWarning
from batchnorm.files import is_there
from batchnorm.printing import json_text, printable


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(**PATH, help="Folder of a finished run: on a table, on images or on arrays.")],
    *,
    host: Annotated[str, typer.Option(help="Name or number that connections are waited for on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any that is free.")] = 8000,
    max_bytes: Annotated[int, typer.Option(min=1, max=1 << 30, help="Bytes of a request at most.")] = 4 << 20,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows, or arrays, of a request at most.")] = 10_000,
    max_pixels: Annotated[int, typer.Option(min=1, max=1 << 26, help="Pixels of an image at most.")] = 1 << 25,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Seconds from a request to its answer at most.")
    ] = 30.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests under way at the same time at most.")] = 128,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights", help="Have the page on images hold the network, which whoever opens it then has, to play with."
        ),
    ] = False,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Answer predictions over HTTP, with a page to try them on, until Ctrl-C or SIGTERM.

    Only this machine is answered unless --host says otherwise. Requests that have come are answered before the end; a
    second Ctrl-C ends at once.
    """
    given(host, "a name or number of this machine")
    start_torch(threads)
    from batchnorm.training.runs import TABLE_FILE

    if not is_there(run / TABLE_FILE):
        plan_of_one_run(run)
    from batchnorm.serving import Limits, Server, address_of, listen, serve_run

    limits = Limits(max_bytes, max_rows, max_pixels, max_seconds, max_waiting)
    with listen(host, port) as listener:
        url, is_private = address_of(listener)
        if not is_private:
            warnings.warn(f"whoever reaches {url} is answered: there is no password", BatchnormWarning, stacklevel=2)
        model = serve_run(run, limits, weights)

        def tell() -> None:
            said = json_text({"run": str(run), "url": url}) if as_json else f"{printable(run)} is served on {url}"
            print(said, flush=True)

        Server(model, limits, host, tell).run([listener])
