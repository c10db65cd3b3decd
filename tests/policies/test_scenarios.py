"""The planner under the guard and with reflexes, on the virtual clock: conditions in, ranges out.

Each row: the scenario; misses at most (share of segments), and never more than a point worse than the static setting
with all workers; workers on average; switches of lanes or workers at most: two per true shift, and one to find the
first setting.
"""

from __future__ import annotations

import numpy as np
import pytest

from streamspec.core.control import Decision
from streamspec.policies.aimd import AimdPolicyConfig
from streamspec.simulation.loop import Run
from tests.policies import scenarios
from tests.policies.scenarios import Scenario

pytestmark = pytest.mark.slow

TABLE: dict[str, tuple[Scenario, float, tuple[float, float], int]] = {
    "steady": (scenarios.STEADY, 0.001, (1.0, 2.0), 1),
    "step up": (scenarios.STEP_UP, 0.005, (1.2, 2.2), 3),
    "step down": (scenarios.STEP_DOWN, 0.001, (1.2, 1.8), 2),
    "burst": (scenarios.BURST, 0.012, (1.0, 2.3), 5),
    "content shift at a constant rate": (scenarios.CONTENT_SHIFT, 0.01, (1.2, 2.5), 3),
    "square wave, half the decision period": (scenarios.square_wave(0.125), 0.001, (1.5, 2.2), 2),
    "square wave, the decision period": (scenarios.square_wave(0.25), 0.001, (1.5, 2.2), 2),
    "square wave, twice the decision period": (scenarios.square_wave(0.5), 0.002, (1.5, 2.2), 2),
    "one heavy key": (scenarios.ONE_HEAVY_KEY, 0.03, (1.5, 3.0), 2),
    "idle after work": (scenarios.IDLE, 0.001, (1.0, 1.5), 2),
    "ten times too low": (scenarios.TOO_LOW, 0.002, (1.0, 2.0), 2),
    "three times too high": (scenarios.TOO_HIGH, 0.002, (1.0, 2.0), 2),
    "shuffled": (scenarios.SHUFFLED, 0.002, (1.0, 2.0), 2),
    "constant": (scenarios.CONSTANT, 0.01, (1.2, 2.5), 3),
    "NaN features": (scenarios.NOT_A_NUMBER, 0.002, (1.2, 2.0), 2),
    "hostile: dear, and looks cheap": (scenarios.HOSTILE, 0.01, (1.3, 3.0), 3),
    "frozen learner": (scenarios.FROZEN, 0.002, (1.0, 2.0), 3),
}


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("name", TABLE)
def test_table(name: str, seed: int) -> None:
    scenario, most_missed, (least_workers, most_workers), switches = TABLE[name]
    run, static = scenario.run(seed=seed), scenario.run_static(seed=seed)
    assert run.miss_ratio <= most_missed
    assert run.miss_ratio <= static.miss_ratio + 0.01
    assert least_workers <= run.mean_workers <= most_workers
    assert run.switches <= switches


def of_rule(run: Run, rule: str) -> list[Decision]:
    return [decision for decision in run.decisions if any(refusal.rule == rule for refusal in decision.refused)]


def test_a_harmful_worker_is_taken_back_and_not_tried_again() -> None:
    run = scenarios.HARMFUL_WORKER.run()
    undone = [d for d in run.decisions if any(verdict.verdict == "undone" for verdict in d.settled)]
    assert undone
    assert undone[0].at_seconds < 3.0
    assert max(workers for at, workers, _, _ in run.history if at > 6.0) == 2
    # More than twice what the machine can do, and yet the light ones are served.
    assert run.miss_ratio < 0.5 < scenarios.HARMFUL_WORKER.run_static().miss_ratio


def test_a_reactive_policy_is_kept_from_the_harmful_worker_too() -> None:
    harmful = scenarios.HARMFUL_WORKER
    run = harmful.run(AimdPolicyConfig(type="aimd").build(), reflex=False)
    assert any(done.reason == "undo_harmful_step" for d in run.decisions for done in d.done)
    at_the_end = [workers for at, workers, _, _ in run.history if at > harmful.seconds - 10.0]
    assert np.mean(at_the_end) < 2.5


def test_a_slow_sink_gets_no_workers() -> None:
    run = scenarios.SLOW_SINK.run(AimdPolicyConfig(type="aimd").build(), reflex=False, workers=1)
    assert of_rule(run, "slow_sink")
    assert max(workers for _, workers, _, _ in run.history) == 1
    assert scenarios.SLOW_SINK.run().mean_workers < 1.8


def test_workers_for_one_key_that_waits_for_itself_are_refused() -> None:
    waiting = Scenario(cores=(0.5,), keys=1.0, latency_seconds=0.004)
    run = waiting.run(AimdPolicyConfig(type="aimd").build(), reflex=False)
    assert of_rule(run, "skew")


def test_predictions_that_become_unusable_are_dropped_within_a_second() -> None:
    run = scenarios.NOT_A_NUMBER.run()
    first = next(d for d in run.decisions if d.fallback)
    assert first.at_seconds <= 11.0
    assert first.after.workers == 2
    assert len(first.after.lanes) == 1


def test_a_model_that_expired_is_not_used() -> None:
    run = scenarios.FROZEN.run()
    late = [d for d in run.decisions if d.fallback]
    assert 35.0 <= late[0].at_seconds <= 36.0
    assert "expired" in late[0].fallback
    assert all(refusal.rule == "distrust" for d in late for refusal in d.refused)


def test_the_service_comes_back_when_the_model_does() -> None:
    scenario = Scenario(cores=(0.3,), seconds=30.0, model=_wrong_until_ten)
    run = scenario.run()
    workers = {round(at, 2): count for at, count, _, _ in run.history}
    assert workers[9.5] == 2
    assert workers[25.0] == 1


def _wrong_until_ten(workload: scenarios.Workload, rng: np.random.Generator) -> scenarios.Workload:
    shuffled = rng.permutation(workload.work_ns)
    early = (workload.arrival_ns < 10e9)[:, None]
    return workload.predicted_with(np.where(early, shuffled * 12.0, workload.work_ns))


def test_in_recommend_nothing_changes_and_all_is_recorded() -> None:
    from streamspec.policies.planner import PlannerPolicyConfig
    from streamspec.simulation.loop import simulate, single_lane

    run = simulate(
        scenarios.STEP_DOWN.workload(), [PlannerPolicyConfig().build()], plan=single_lane(2), mode="recommend"
    )
    assert run.switches == 0
    assert {workers for _, workers, _, _ in run.history} == {2}
    assert any(d.done and d.after.workers == 1 for d in run.decisions)
    assert all(d.mode == "recommend" for d in run.decisions)
