"""The profiler: how fast each call of a kernel ran, how fast this machine could run it, and why.

    with fastconv.profile() as p:
        model(images)
    print(p.table())
    p.html("profile.html")

A leaf: nothing but the command line imports it, and while no profile is open nothing of it runs.
"""

from functools import cached_property

from . import advice, document, page, peaks, picture, rows, terminal
from .recording import PHASES, Record, Recording

__all__ = ["PHASES", "Profile", "Record"]


class Profile(Recording):
    """The kernels called in a ``with`` block, by any thread of the process.

    records: a Record for each call. rows: the calls of one kernel for one layer and shape together, a list
    of rows.Row. peaks: what this machine can do at most, measured at first use, in a third of a second.
    laps: seconds of each turn, where the profile is one of a loop. title: a line for people.
    counters: count cycles, instructions and cache misses as well, through Linux perf events; counters_note
    says why not where the machine refuses.

    Calls from C, by way of fastconv.h, are of no layer. Raises RuntimeError when it is opened a second time.
    """

    def __init__(self, title="", counters=False):
        super().__init__(counters)
        self.title = title
        self.laps = []

    @cached_property
    def rows(self):
        """Of the records there are at first use."""
        return advice.advised(rows.group(self.records, self.peaks), self)

    @cached_property
    def peaks(self):
        """Of the most threads that a call was allowed."""
        return peaks.measure(max((call[3] for call in self._calls), default=1))

    @property
    def kernel_seconds(self):
        """Of all calls together."""
        return sum(record.seconds for record in self.records)

    def table(self, most=None, width=None):
        """The rows as text, as wide as the terminal; most: only so many of those that took longest."""
        return terminal.table(self, most, width)

    def to_json(self, path=None):
        """The profile as JSON, returned and, where `path` is given, written there; see profiler.document."""
        return document.json_text([self], path)

    def to_csv(self, path=None):
        """The rows as comma-separated values; path as of to_json."""
        return document.csv_text([self], path)

    def chrome_trace(self, path=None):
        """The records for chrome://tracing and Perfetto, in the Trace Event Format; path as of to_json."""
        return document.chrome_trace([self], path)

    def html(self, path=None):
        """A page of its own, without links: rows, timeline, roofline; path as of to_json."""
        return page.html([self], path)

    def roofline(self, path):
        """Draws the roofline into a PNG file. Raises ImportError without matplotlib."""
        picture.roofline(self, path)
