"""The garbage collector of a server that runs for long: what is there once it has started stays, and is not looked through again and again.

A delivery makes hundreds of objects that go by themselves. With Python's own thresholds each few deliveries had the collector look for cycles among them,
and every now and then among everything that had been imported.
"""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 20, 50)


def settle() -> None:
    """To be called once, when everything is up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
