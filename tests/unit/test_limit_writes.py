"""Which files of a group a limit is written to."""

from __future__ import annotations

import pytest

from jobruntime.linux.limits import Write, limit_writes
from jobruntime.model.limits import Limits


@pytest.mark.parametrize(("weight", "bfq"), [(1, 1), (100, 100), (900, 173), (10_000, 1000)])
def test_a_weight_of_io_goes_to_every_scheduler_that_has_one(weight: int, bfq: int) -> None:
    limits = Limits(io_weight=weight)
    of_bfq = Write("io.bfq.weight", f"default {bfq}")
    of_io_cost = Write("io.weight", f"default {weight}")
    assert limit_writes(limits, {"io.bfq.weight", "io.weight"}) == [of_bfq, of_io_cost]
    assert limit_writes(limits, {"io.bfq.weight"}) == [of_bfq]
    assert limit_writes(limits, {"io.weight"}) == [of_io_cost]
