"""What mapping a scene is expected to take, once its first row of windows is over."""

from __future__ import annotations

from collections.abc import Callable

from eosfm_cli.progress import Step
from eosfm_cli.raster.windows import WindowPlan
from eosfm_cli.results import Cost


class Expectation:
    """Passes on which windows are done, and looks at the cost when the first row of them is.

    Args:
        step: Who else is told.
        plan: The windows of the scene.
        cost: What the run has taken so far.
        before: What of it went to scenes before.
        special: Whether the first row of windows is not like the others, as where an earlier run
            had done some of it: then nothing is expected.
    """

    def __init__(
        self, step: Step, plan: WindowPlan, cost: Callable[[], Cost], before: Cost, *, special: bool
    ) -> None:
        self._step, self._plan, self._cost = step, plan, cost
        self._start, self._before = cost(), before
        self._done = 0
        self._over = special or len(plan.rows) == 1
        self.cost: Cost | None = None
        """Of all windows and of what went before them."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Report that `amount` more windows are done."""
        self._step.advance(amount, note=note)
        self._done += amount
        if self._over or self._done < len(self._plan.cols):
            return
        self._over = True
        windows = (self._cost() + self._start.times(-1)).times(len(self._plan) / self._done)
        total = self._start + self._before.times(-1) + windows
        self.cost = Cost(total.seconds, max(total.energy_kwh, 0.0), max(total.emissions_kg, 0.0))
