"""The order in which nodes run, for files that do not have them in it."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence


def in_order(needs: Sequence[Collection[int]]) -> list[int]:
    """The places of nodes so that each comes behind all that it needs, as near to the file's order as possible.

    `needs` are the places that each node needs. Those in a circle, and what is below one, are left out.
    """
    readers: list[list[int]] = [[] for _ in needs]
    for place, before in enumerate(needs):
        for other in before:
            readers[other].append(place)
    waits = [len(before) for before in needs]
    ready = [place for place, count in enumerate(waits) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return order
