"""Best-of-many timing with the contenders interleaved.

A shared machine's clock and bandwidth drift within seconds, so only figures taken side by side compare:
the contenders take turns, and each keeps the fastest of all its calls.
"""

from time import perf_counter

# A turn is at least so many consecutive calls: the first finds the caches as another contender left them.
# And at least so long: the idle threads of other libraries spin on, OpenBLAS's for 2^26 cycles or 25 ms.
CALLS = 4
TURN_SECONDS = 0.04


def best_seconds(contenders, budget, calls=CALLS):
    """{name: seconds of the fastest call} of the callables in the dict `contenders`.

    Every contender gets `budget` seconds of calls, in turns of at least `calls` calls, and at least one
    call. A call is one evaluation, its result freed before the next one.
    """
    best = dict.fromkeys(contenders, float("inf"))
    left = dict.fromkeys(contenders, budget)
    while any(seconds > 0 for seconds in left.values()):
        for name, call in contenders.items():
            turn = 0.0
            done = 0
            while left[name] > 0 and (done < calls or turn < TURN_SECONDS):
                start = perf_counter()
                call()
                seconds = perf_counter() - start
                best[name] = min(best[name], seconds)
                left[name] -= seconds
                turn += seconds
                done += 1
    return best
