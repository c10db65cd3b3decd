"""Decisions of the controller as people read them: the last ones, their counts, and one log line each."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import structlog

from streamspec.core.control import EVERYTHING, Decision, Effect, Forecast, LanePlan, Proposal, Settled, Value
from streamspec.core.units import format_bytes, format_seconds

_log = structlog.get_logger("streamspec.decisions")

KEPT_DECISIONS = 1000
"""Decisions that can be read from a running service; the ledger has all of them."""

Shown = float | str | None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of one knob. ``rule`` and ``why`` are the guard's, where it refused or cut the step."""

    knob: str
    lane: str
    before: Shown
    after: Shown
    policy: str
    reason: str
    detail: str = ""
    rule: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class DecisionView:
    """One decision; ``time_seconds`` since 1970. ``outcome``: ``applied``, ``recommended``, ``refused`` (nothing
    was let through), ``kept``, ``undone``, ``overtaken``, ``unmeasured`` (see ``core.control.Settled``)."""

    number: int
    time_seconds: float
    mode: str
    outcome: str
    sentence: str
    steps: tuple[StepView, ...]
    refused: tuple[StepView, ...]
    fallback: str
    seen: Mapping[str, float]
    forecast: Mapping[str, float]
    expected: Mapping[str, float]
    measured: Mapping[str, float] | None = None
    why: str = ""


@dataclass
class DecisionLog:
    """The last :data:`KEPT_DECISIONS`; the controller adds, everything else reads.

    Attributes:
        outcomes: decisions by outcome; a decision that is settled later counts once more, as its verdict.
        refusals: refused steps by rule of the guard.
        listeners: called with each decision that is new or was settled.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    listeners: list[Callable[[DecisionView], None]] = field(default_factory=list)
    _kept: OrderedDict[int, DecisionView] = field(default_factory=OrderedDict)

    def repeat(self, decision: Decision) -> None:
        """A decision that refuses what the one before it refused: counted, not kept."""
        self.refusals.update(refusal.rule for refusal in decision.refused)

    def add(self, decision: Decision) -> DecisionView:
        """Take in one row of the ledger; its ``at_seconds`` count from 1970."""
        view = decision_view(decision)
        self._kept[view.number] = view
        while len(self._kept) > KEPT_DECISIONS:
            self._kept.popitem(last=False)
        self.outcomes[view.outcome] += 1
        self.refusals.update(step.rule for step in view.refused)
        _log.info(
            "decision",
            number=view.number,
            outcome=view.outcome,
            sentence=view.sentence,
            always=view.outcome != "refused",  # a proposal that is refused comes back every period
        )
        self._tell(view)
        return view

    def settle(self, settled: Settled) -> None:
        """What came of an earlier decision."""
        view = self._kept.get(settled.number)
        self.outcomes[settled.verdict] += 1
        if view is None:
            return
        view = replace(view, outcome=settled.verdict, measured=effect_numbers(settled.measured), why=settled.why)
        self._kept[view.number] = view
        _log.info("decision settled", number=view.number, outcome=view.outcome, why=settled.why, always=True)
        self._tell(view)

    def last(self, limit: int, before: int | None = None) -> list[DecisionView]:
        """The newest first; with ``before`` only those with a smaller number."""
        found = (view for view in reversed(self._kept.values()) if before is None or view.number < before)
        return [view for view, _ in zip(found, range(limit), strict=False)]

    def _tell(self, view: DecisionView) -> None:
        for listener in self.listeners:
            try:
                listener(view)
            except Exception as error:  # what is shown must never end what is done
                _log.exception("a decision was not told", reason=repr(error))


def decision_view(decision: Decision) -> DecisionView:
    """A row of the ledger, flattened."""
    seen = decision.seen
    steps = tuple(_step(proposal) for proposal in decision.done)
    refused = tuple(
        _step(refusal.proposal, rule=refusal.rule, why=refusal.why, granted=refusal.granted)
        for refusal in decision.refused
    )
    outcome = ("applied" if decision.mode == "auto" else "recommended") if steps else "refused"
    facts = {
        "miss_ratio": seen.miss_ratio,
        "oldest_age_seconds": seen.oldest_age_seconds,
        "arena_used_ratio": seen.arena_used_ratio,
        "workers": float(seen.workers_observed),
        "cpu_busy_ratio": seen.host.cpu_busy_ratio,
        "model_error_ratio": seen.model.error_ratio,
    }
    return DecisionView(
        number=decision.number,
        time_seconds=decision.at_seconds,
        mode=decision.mode,
        outcome=outcome if decision.verdict == "pending" else decision.verdict,
        sentence=_sentence(steps, refused, decision.fallback),
        steps=steps,
        refused=refused,
        fallback=decision.fallback,
        seen={name: float(value) for name, value in facts.items() if math.isfinite(value)},
        forecast=_numbers(decision.forecast),
        expected=effect_numbers(decision.expected),
        measured=None if decision.measured is None else effect_numbers(decision.measured),
    )


def effect_numbers(effect: Effect) -> dict[str, float]:
    """What an effect says, without what it does not say."""
    return _numbers(effect)


def _numbers(row: Effect | Forecast) -> dict[str, float]:
    values = {part.name: getattr(row, part.name) for part in fields(row)}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _step(proposal: Proposal, *, rule: str = "", why: str = "", granted: Value = None) -> StepView:
    return StepView(
        knob=proposal.knob,
        lane=proposal.lane,
        before=shown(proposal.before),
        after=shown(proposal.after if granted is None else granted),
        policy=proposal.policy,
        reason=proposal.reason,
        detail=proposal.detail,
        rule=rule,
        why=why,
    )


def shown(value: Value) -> Shown:
    """A knob's value for people: core lists and lane plans as text, numbers as plain ones."""
    if isinstance(value, frozenset):
        return ",".join(map(str, sorted(value))) or "any"
    if isinstance(value, tuple):
        return " + ".join(_lane_text(lane) for lane in value)
    return value if value is None or isinstance(value, str) else float(value)


def _lane_text(lane: LanePlan) -> str:
    limit = "" if lane.up_to_work_ns == EVERYTHING else f" up to {format_seconds(lane.up_to_work_ns / 1e9)}"
    workers, nice = lane.allocation.workers, lane.allocation.nice
    return f"{lane.name}{limit} ({workers} worker{'s'[: workers != 1]}{f', nice {nice}' if nice else ''})"


def _sentence(steps: tuple[StepView, ...], refused: tuple[StepView, ...], fallback: str) -> str:
    done = "; ".join(_change(step) for step in steps)
    kept = "; ".join(f"not {_change(step)}: {step.why or step.rule.replace('_', ' ')}" for step in refused)
    without = f"predictions are not used: {fallback}" if fallback else ""
    return ". ".join(part for part in (done, kept, without) if part) or "nothing to do"


def _change(step: StepView) -> str:
    what = f"{step.lane}: {step.knob.replace('_', ' ')}" if step.lane else step.knob.replace("_", " ")
    because = step.detail or step.reason.replace("_", " ")
    change = f"{what} {_amount(step.knob, step.before)} to {_amount(step.knob, step.after)}"
    return f"{change} ({because})" if because else change


def _amount(knob: str, value: Shown) -> str:
    if value is None:
        return "default"
    if isinstance(value, float | int) and "bytes" in knob:
        return format_bytes(value) + ("/s" if "second" in knob else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
