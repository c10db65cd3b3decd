"""One turn of the control loop without its I/O: an observation in, the plan to apply and a ledger row out.

The service's controller and the simulator run this same code, so that what is replayed is what runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamspec.core.control import Advice, Decision, Effect, Forecast, Mode, Observation, Plan, Policy
from streamspec.engine.guard import Guard


class Cycle:
    """Policies and the guard of one service.

    Args:
        mode: ``off``: nothing is decided; ``recommend``: rulings are recorded and the plan stays; ``auto``.
        policies: asked at each decision, in order; the first is the main one, whose forecast is kept.
        reflexes: asked at each glance and each decision.
        plan: in force at the start.
    """

    def __init__(
        self, mode: Mode, policies: Sequence[Policy], guard: Guard, plan: Plan, *, reflexes: Sequence[Policy] = ()
    ) -> None:
        self.mode = mode
        self.policies = tuple(policies)
        self.reflexes = tuple(reflexes)
        self.guard = guard
        self.plan = plan

    def decide(self, observation: Observation) -> Decision:
        """A whole decision; :attr:`plan` is to be applied afterwards."""
        advice = [policy.decide(observation, self.plan) for policy in (*self.policies, *self.reflexes)]
        return self._rule(observation, advice, glance=False)

    def glance(self, observation: Observation) -> Decision | None:
        """Reflexes only, between decisions; ``None`` when nothing is to be done."""
        advice = [policy.decide(observation, self.plan) for policy in self.reflexes]
        if not any(one.proposals for one in advice):
            return None
        return self._rule(observation, advice, glance=True)

    def _rule(self, observation: Observation, advice: list[Advice], *, glance: bool) -> Decision:
        before = self.plan
        acting = self.mode == "auto"
        ruling = self.guard.rule(
            observation, before, advice if self.mode != "off" else (), acting=acting, glance=glance
        )
        if acting:
            self.plan = ruling.plan
        return Decision(
            number=ruling.number,
            at_seconds=observation.now_seconds,
            mode=self.mode,
            policies=tuple(one.policy for one in advice),
            seen=observation,
            forecast=advice[0].forecast if advice and not glance else Forecast(),
            before=before,
            after=ruling.plan,
            proposed=tuple(proposal for one in advice for proposal in one.proposals),
            refused=ruling.refused,
            done=ruling.done,
            settled=ruling.settled,
            fallback=ruling.fallback,
            expected=next((proposal.expected for proposal in ruling.done), Effect()),
        )
