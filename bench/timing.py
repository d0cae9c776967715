"""Best-of-many timing with the contenders interleaved.

A shared machine's clock and bandwidth drift within seconds, so only figures taken side by side compare:
the contenders take turns, and each keeps the fastest of all its calls.
"""

from functools import partial
from time import perf_counter

# A turn is at least so many consecutive calls: the first finds the caches as another contender left them.
# And at least so long: the idle threads of other libraries spin on, OpenBLAS's for 2^26 cycles or 25 ms.
CALLS = 4
TURN_SECONDS = 0.04


def turn(call, left, calls=CALLS):
    """(seconds of the fastest call, seconds of all) of a turn; it ends early after `left` seconds.

    A call is one evaluation, its result freed before the next one.
    """
    best, total, done = float("inf"), 0.0, 0
    while done == 0 or (total < left and (done < calls or total < TURN_SECONDS)):
        start = perf_counter()
        call()
        seconds = perf_counter() - start
        best, total, done = min(best, seconds), total + seconds, done + 1
    return best, total


def best_of_turns(turns, budget):
    """{name: seconds of the fastest call}; turns: {name: function of the seconds left, as `turn`}.

    Every contender gets `budget` seconds of calls, and at least one call.
    """
    best = dict.fromkeys(turns, float("inf"))
    left = dict.fromkeys(turns, budget)
    while any(seconds > 0 for seconds in left.values()):
        for name, take in turns.items():
            if left[name] > 0:
                seconds, total = take(left[name])
                best[name] = min(best[name], seconds)
                left[name] -= total
    return best


def best_seconds(contenders, budget, calls=CALLS):
    """{name: seconds of the fastest call} of callables in this process."""
    turns = {name: partial(turn, call, calls=calls) for name, call in contenders.items()}
    return best_of_turns(turns, budget)
