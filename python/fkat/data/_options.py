"""Arguments of the loaders about their rings, checked."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from fkat.data import _arguments as arguments
from fkat.data._transport.producer_feed import MAX_LEASES, RingOptions

MAX_PREFETCHES = 4000


def ring_options(
    num_microbatch_prefetches: int,
    multiprocessing_context: str | BaseContext | None,
    timeout: float,
    memory_budget_nbytes: int | None,
    max_microbatch_nbytes: int,
    device_prefetch: int,
) -> RingOptions:
    """What arguments of these names ask for.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One has a value that cannot work.
    """
    return RingOptions(
        num_prefetches=arguments.integer(
            "num_microbatch_prefetches",
            num_microbatch_prefetches,
            minimum=-1,
            maximum=MAX_PREFETCHES,
        ),
        max_microbatch_nbytes=arguments.integer(
            "max_microbatch_nbytes", max_microbatch_nbytes, minimum=1, maximum=1 << 40
        ),
        memory_budget_nbytes=arguments.optional_integer(
            "memory_budget_nbytes", memory_budget_nbytes, minimum=1
        ),
        context=arguments.context("multiprocessing_context", multiprocessing_context),
        timeout_s=arguments.seconds("timeout", timeout) or None,
        num_device_prefetches=arguments.integer(
            "device_prefetch", device_prefetch, minimum=0, maximum=MAX_LEASES - 1
        ),
    )
