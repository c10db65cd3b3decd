"""A pool of one resource: so much and no more, each holder's part on record."""

from __future__ import annotations

from collections.abc import Mapping

from streamspec.core.resources import Refusal, ResourceRequest, Taken, amount_text


class AmountPool:
    """Implements ``Pool`` for what has no places: threads, cache memory, bandwidth.

    Args:
        name: one of ``RESOURCE_NAMES``.
        limit: how much there is; may be changed, also below what is granted (see :meth:`overdraft`).
    """

    def __init__(self, name: str, limit: float) -> None:
        self.name = name
        self.limit = limit
        self.granted: dict[str, float] = {}

    def take(self, holder: str, amount: float, place: str = "") -> Taken | Refusal:
        """See ``Pool``."""
        free = self.available()
        if amount > free:
            reason = (
                f"{amount_text(self.name, amount)} asked for, {amount_text(self.name, free)} left "
                f"of {amount_text(self.name, self.limit)}"
            )
            return Refusal(reason, ResourceRequest.from_amounts({self.name: free}))
        self.granted[holder] = self.granted.get(holder, 0.0) + amount
        return Taken(amount)

    def give_back(self, holder: str, taken: Taken) -> None:
        """See ``Pool``. More than the holder has counts as all that it has."""
        left = self.granted.get(holder, 0.0) - taken.amount
        if left > 0:
            self.granted[holder] = left
        else:
            self.granted.pop(holder, None)

    def available(self) -> float:
        """See ``Pool``."""
        return max(0.0, self.limit - sum(self.granted.values()))

    def overdraft(self) -> Mapping[str, float]:
        """See ``Pool``."""
        over = sum(self.granted.values()) - self.limit
        return {"": over} if over > 0 else {}
