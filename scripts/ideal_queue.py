#!/usr/bin/env python
"""How long requests take where each has one core and nothing is lost: what a load does to p99.

    scripts/ideal_queue.py [SECONDS] [SERVERS] [LOAD]

Arrivals at random (Poisson), each served for SECONDS (0.08) by one of SERVERS (2, the cores), first
come, first served; LOAD (0.8) is the part of their time that they are busy. Such a queue, M/D/c,
has no simple formula for percentiles, so it is simulated.
"""

import heapq
import random
import sys

_ARRIVALS = 400_000


def percentiles(seconds: float, servers: int, load: float) -> tuple[float, float]:
    """The 50th and the 99th of the times from arrival to answer, in seconds."""
    rng = random.Random(0)  # noqa: S311 - no secret
    rate = load * servers / seconds
    free = [0.0] * servers  # when each will be
    now, took = 0.0, []
    for _ in range(_ARRIVALS):
        now += rng.expovariate(rate)
        end = max(now, heapq.heappop(free)) + seconds
        heapq.heappush(free, end)
        took.append(end - now)
    took.sort()
    return took[_ARRIVALS // 2], took[_ARRIVALS * 99 // 100]


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    p50, p99 = percentiles(
        float(given.get(0, 0.08)), int(given.get(1, 2)), float(given.get(2, 0.8))
    )
    print(f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms: {p99 / p50:.2f} times")
