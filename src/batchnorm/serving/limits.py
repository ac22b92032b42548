"""How much one request, and all of them together, may take, and the answers to those that would take more."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is served at most.

    Parameters
    ----------
    bytes : int, default 4 MiB
        Of a request's body.
    rows : int, default 10,000
        Of a request, or arrays.
    pixels : int, default 2**25
        Of an image: to decode one takes up to 33 bytes for each, of one image at a time.
    seconds : float, default 30
        From a request's headers to its answer; some of it may be waiting for those before it.
    waiting : int, default 128
        Requests that are read, wait or are computed at the same time; together with `bytes` it bounds the memory.
    """

    bytes: int = 4 << 20
    rows: int = 10_000
    pixels: int = 1 << 25
    seconds: float = 30.0
    waiting: int = 128


class RefusedError(Exception):
    """A request that is not answered; says why, in one line.

    Parameters
    ----------
    status : int
        HTTP's.
    why : str
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status
