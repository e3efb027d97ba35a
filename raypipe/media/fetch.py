"""Media as local files, one after another: those of a remote root are fetched while others are decoded."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from raypipe.media.decode import DecodeRequest
from raypipe.media.fault import MediumError
from raypipe.media.source import MediaRoot, State
from raypipe.settings import local

FETCHES = 8  # at once; so many copies lie in the temporary folder, and one more that is being decoded

# The request with its local place, and what removes the copy; or why there is none.
_Fetched = tuple[DecodeRequest, contextlib.ExitStack] | MediumError


def near_media(
    requests: Iterable[DecodeRequest],
) -> Generator[tuple[DecodeRequest, DecodeRequest | MediumError], None, None]:
    """Each request, in order, with the same request for a local file; a copy goes when the next is asked for.

    A medium of a local root is left where it is, and looked at by who decodes it.

    Raises:
        ServiceError: a remote storage fails.
    """
    roots: dict[str, MediaRoot] = {}
    waiting: deque[tuple[DecodeRequest, Future[_Fetched] | None]] = deque()
    with contextlib.ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        stack.callback(_drop, waiting)
        for request in requests:
            root = roots.setdefault(request.root, MediaRoot(request.root))
            fetched = None
            if not root.is_local:
                if pool is None:
                    pool = ThreadPoolExecutor(FETCHES, "raypipe-fetch")
                    stack.callback(pool.shutdown, cancel_futures=True)
                fetched = pool.submit(_fetch, root, request)
            waiting.append((request, fetched))
            if waiting[0][1] is None or len(waiting) > FETCHES:
                yield from _first(waiting)
        while waiting:
            yield from _first(waiting)


def _first(
    waiting: deque[tuple[DecodeRequest, Future[_Fetched] | None]],
) -> Iterator[tuple[DecodeRequest, DecodeRequest | MediumError]]:
    request, fetched = waiting.popleft()
    if fetched is None:
        yield request, replace(request, root=local(request.root))  # who decodes may be in another folder
        return
    got = fetched.result()
    if isinstance(got, MediumError):
        yield request, got
        return
    with got[1]:
        yield request, got[0]


def _fetch(root: MediaRoot, request: DecodeRequest) -> _Fetched:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(root.local_file(request.path, State(request.size, request.stamp)))
        except MediumError as fault:
            return fault
        near = replace(request, root=str(file.parent), path=file.name, size=-1, stamp="")
        return near, stack.pop_all()


def _drop(waiting: deque[tuple[DecodeRequest, Future[_Fetched] | None]]) -> None:
    """Removes the copies that nobody came for."""
    for _, future in waiting:
        if future is None or future.cancelled() or future.exception():
            continue
        if not isinstance(got := future.result(), MediumError):
            got[1].close()
