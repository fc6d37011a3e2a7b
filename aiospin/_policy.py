"""How to wait: where, how long to spin, how long to sleep."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Final, Literal, get_args

# What benchmarks/predict_simulation.py allows; price and purse limit what is spun long before it.
LONGEST_PLANNED_SPIN_NS: Final = 5_000_000
PRICE_FREE: Final = 2**32 - 1  # ASP_PRICE_FREE of csrc/core/predict.h

Mode = Literal["adaptive", "thread", "loop", "park"]


@dataclass(frozen=True)
class WaitPolicy:
    """How a wait spends its time until what it waits for is there.

    :param mode: where it spins before it parks. "adaptive": in slices on the event loop's own
        thread while the loop has nothing else to do, beside it in the waiter thread when it has.
        "loop": on the loop's thread, whatever else it does. "thread": in the waiter thread. "park":
        nowhere, it sleeps at once. Blocking waits and trio have no slices: there "adaptive" and
        "loop" spin where the wait runs.
    :param max_spin: seconds to spin before parking, where nothing foretells when the wait will end; 0: never
        spin. A predicted spin lasts as long as is likely to pay, at most 5 ms or this, whichever is longer.
    :param max_sleep: seconds between two looks of a cold wait whose writer does not notify.
    :param predict: learn when messages come, sleep through the gaps, and spin only when the next one is due
        and it has paid lately. A reader of a broadcast learns, and its writer when it waits for room; other waits
        have no past to learn from.
    :param hardware: use the CPU's wait instructions where there are any, instead of a plain pause
        loop.
    :param price: seconds of CPU that are worth spending to save one second of latency; inf: CPU is free
        for the first ``max_spin`` of every wait; 0: no planned spin pays.
    :raises ValueError: an unknown mode, or seconds that are negative, NaN, or not finite.
    """

    mode: Mode = "adaptive"
    # The ski-rental bound: about as long as a park costs (40 to 95 us from publish to resumed
    # coroutine through the waiter thread, benchmarks/wake_latency.py), so a wait never costs twice
    # the cheaper choice.
    max_spin: float = 50e-6
    # 1,000 looks a second cost about 2 % of a core of a small VM (benchmarks/idle_cost.py).
    max_sleep: float = 1e-3
    predict: bool = True
    hardware: bool = True
    # benchmarks/predict_simulation.py, table "price": at 10 a stream of 7 ms with 5 % of jitter is not worth its
    # spin. More than this buys little, for much CPU where sleeps end late.
    price: float = 25.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name, low in (("max_spin", 0.0), ("max_sleep", 1e-6)):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
            if not (low <= seconds <= 3600):  # also refuses NaN
                raise ValueError(f"{name} must be from {low:g} to 3600 seconds, not {seconds!r}")

        if isinstance(self.price, bool) or not isinstance(self.price, (int, float)):
            raise TypeError(f"price must be a number, not {self.price!r}")
        if not self.price >= 0:  # also refuses NaN
            raise ValueError(f"price must not be negative, not {self.price!r}")
        for name in ("predict", "hardware"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")

    @property
    def spin_ns(self) -> int:
        """max_spin in nanoseconds; 0 where the mode does not spin."""
        return 0 if self.mode == "park" else int(self.max_spin * 1e9)

    @property
    def planned_spin_ns(self) -> int:
        """The longest spin that a prediction may ask for, in nanoseconds."""
        return max(self.spin_ns, LONGEST_PLANNED_SPIN_NS) if self.spin_ns else 0

    @property
    def cpu_per_latency(self) -> int:
        """price as the core takes it: whole, and with a number for "free"."""
        return PRICE_FREE if self.price >= PRICE_FREE else round(self.price)

    @property
    def sleep_ns(self) -> int:
        """max_sleep in nanoseconds."""
        return int(self.max_sleep * 1e9)

    @classmethod
    def latency(cls) -> WaitPolicy:
        """Spin through gaps of up to 20 ms (a step of model decoding): a core for the shortest wait."""
        return cls(max_spin=20e-3, max_sleep=100e-6, price=math.inf)

    @classmethod
    def balanced(cls) -> WaitPolicy:
        """Sleep through the gaps and spin when the next message is due, where that pays. The default."""
        return cls()

    @classmethod
    def powersave(cls) -> WaitPolicy:
        """Never spin: the longest latency (tens of microseconds) for the least energy."""
        return cls(mode="park", max_spin=0.0, max_sleep=10e-3, price=0.0)


_PRESETS: Final = {
    "latency": WaitPolicy.latency,
    "balanced": WaitPolicy.balanced,
    "powersave": WaitPolicy.powersave,
}


def _from_environment() -> WaitPolicy:
    name = os.environ.get("AIOSPIN_POLICY") or "balanced"
    if name not in _PRESETS:
        raise ValueError(f"AIOSPIN_POLICY must be one of {', '.join(_PRESETS)}, not {name!r}")
    return _PRESETS[name]()


DEFAULT: Final = _from_environment()


def resolve(policy: WaitPolicy | None) -> WaitPolicy:
    """The policy to use: the one given, or the process's default."""
    if policy is None:
        return DEFAULT
    if not isinstance(policy, WaitPolicy):
        raise TypeError(f"policy must be a WaitPolicy, not {policy!r}")
    return policy
