// The parts of the page that are text and boxes; each is changed in place.

import * as format from "./format.js";

const $ = (id) => document.getElementById(id);
const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const grade = (element, name) => { element.classList.remove("good", "warn", "bad"); if (name) element.classList.add(name); };
const CONDITIONS = { ok: "good", degraded: "warn", failed: "bad" };

export const drawNow = (state, connected) => {
  const { rates, totals, arena, objective } = state;
  set($("phase"), connected ? state.phase : "connection lost");
  grade($("phase"), connected ? { running: "good", stopped: "bad" }[state.phase] ?? "warn" : "bad");
  set($("mode"), `control ${state.control.mode}`);
  const met = { true: "met", false: "missed" }[objective.met] ?? "no traffic";
  set($("objective"), `${objective.percentile} % within ${format.seconds(objective.latency_seconds)}: ${met}`);
  grade($("objective"), { true: "good", false: "bad" }[objective.met]);
  set($("uptime"), `up ${format.span(state.uptime_seconds)}, version ${state.version}`);
  set($("now-segments"), format.count(rates.received_segments));
  set($("now-bytes"), format.bytesPerSecond(rates.received_bytes));
  const highs = state.lanes.map((lane) => lane.latency_high_seconds).filter((value) => value !== null);
  set($("now-latency"), highs.length ? format.seconds(Math.max(...highs)) : "-");
  set($("now-latency-name"), `p${objective.percentile} latency, worst lane`);
  set($("now-unfinished"), format.count(totals.unfinished_segments));
  const lost = rates.shed_segments + rates.dead_lettered_segments + rates.dropped_packets;
  set($("now-lost"), format.count(lost));
  grade($("now-lost"), lost > 0 ? "bad" : "");
  set($("now-arena"), format.ratio(1 - arena.free_slots / arena.slots));
  set($("now-lag"), format.seconds(state.loop_lag_seconds));
};

export const drawHealth = (state) => {
  const wrong = state.health.filter((part) => part.condition !== "ok");
  const items = wrong.map((part) => make("li", CONDITIONS[part.condition], `${part.component}: ${part.reason}`));
  const well = state.health.filter((part) => part.condition === "ok");
  if (!items.length) items.push(make("li", "good", `all ${well.length} components are well`));
  else if (well.length) items.push(make("li", "dim", `well: ${well.map((part) => part.component).join(", ")}`));
  const text = items.map((item) => item.className + item.textContent).join("\n");
  if ($("health").dataset.text !== text) {
    $("health").dataset.text = text;
    $("health").replaceChildren(...items);
  }
};

const amount = (knob, value) => {
  if (value === null) return "?";
  if (knob.unit === "bytes per second") return format.bytesPerSecond(value);
  if (knob.unit === "bytes") return format.bytes(value);
  return String(value);
};

const knobText = (knob) => {
  const part = make("span", "", `${knob.knob.replaceAll("_", " ")} `);
  const present = knob.observed ?? knob.granted ?? knob.desired;
  part.append(make("b", "", amount(knob, present)));
  const near = knob.unit.startsWith("bytes") ? 0.05 * Math.abs(knob.desired ?? 0) : 0;
  const differs = [knob.granted, knob.observed].some((value) => value !== null && Math.abs(value - knob.desired) > near);
  if (differs) { part.className = "warn"; part.append(` (wanted ${amount(knob, knob.desired)})`); }
  part.title = `desired ${amount(knob, knob.desired)}, granted ${amount(knob, knob.granted)}, observed ${amount(knob, knob.observed)}`;
  return part;
};

const laneBox = (name) => {
  const box = make("div", "lane");
  box.dataset.lane = name;
  const title = make("div", "name");
  title.append(make("i"), make("span", "", name));
  const queue = make("div", "queue");
  queue.append(make("i"), make("span"));
  box.append(title, queue, make("div", "workers"), make("div", "knobs"));
  return box;
};

const drawWorkers = (box, lane) => {
  const wanted = lane.knobs.find((knob) => knob.knob === "workers")?.desired ?? 0;
  const boxes = lane.workers.map((worker) => {
    const one = make("div", "worker", String(worker.index));
    const level = make("i");
    level.style.height = `${Math.round(100 * lane.busy_ratio)}%`;
    one.append(level);
    one.title = `worker ${worker.index}, pid ${worker.pid}, nice ${worker.nice ?? "?"}, cores ${worker.cores.join(" ") || "?"}, ${worker.in_flight_segments} segments in hand`;
    return one;
  });
  for (let i = lane.workers.length; i < wanted; i += 1) {
    const missing = make("div", "worker missing", "–");
    missing.title = "wanted, not there";
    boxes.push(missing);
  }
  box.querySelector(".workers").replaceChildren(...boxes);
};

export const drawLanes = (state, colourOf) => {
  const holder = $("lanes");
  const boxes = new Map([...holder.children].map((box) => [box.dataset.lane, box]));
  const most = Math.max(1, ...state.lanes.map((lane) => lane.queued_segments));
  const wanted = state.lanes.map((lane) => {
    const box = boxes.get(lane.name) ?? laneBox(lane.name);
    box.querySelector(".name i").style.background = colourOf(lane.name);
    box.querySelector(".queue i").style.width = `${(100 * lane.queued_segments) / most}%`;
    const age = lane.oldest_seconds > 0 ? `, oldest ${format.seconds(lane.oldest_seconds)}` : "";
    set(box.querySelector(".queue span"), `${format.count(lane.queued_segments)} queued${age}`);
    drawWorkers(box, lane);
    const figures = make("span", "figures", `${format.count(lane.segments_per_second)} segments/s, ${format.bytesPerSecond(lane.bytes_per_second)}, p50 ${format.seconds(lane.latency_p50_seconds)}, p${state.objective.percentile} ${format.seconds(lane.latency_high_seconds)}, busy ${format.ratio(lane.busy_ratio)}`);
    box.querySelector(".knobs").replaceChildren(figures, ...lane.knobs.map(knobText));
    return box;
  });
  if (wanted.length !== holder.children.length || wanted.some((box, i) => box !== holder.children[i])) holder.replaceChildren(...wanted);
};

const OUTCOMES = { applied: "good", kept: "good", undone: "bad", refused: "warn" };
const number = (name, value) => {
  const words = name.replace(/_(ratio|seconds|per_second)$/, "").replaceAll("_", " ");
  if (name.endsWith("_ratio")) return `${words} ${format.ratio(value)}`;
  if (name.endsWith("seconds_per_second")) return `${words.replace(/ seconds$/, "")} ${format.seconds(value)}/s`;
  if (name.endsWith("bytes_per_second")) return `${words.replace(/bytes /, "")} ${format.bytesPerSecond(value)}`;
  return name.endsWith("_seconds") ? `${words} ${format.seconds(value)}` : `${words} ${format.count(value)}`;
};
const numbers = (values) => Object.entries(values).map(([name, value]) => number(name, value)).join(", ");

const details = (decision) => {
  const list = make("dl");
  const add = (name, text) => { if (text) list.append(make("dt", "", name), make("dd", "", text)); };
  add("seen", numbers(decision.seen));
  add("forecast", numbers(decision.forecast));
  for (const step of decision.refused) add("refused", `${step.lane} ${step.knob}: ${step.rule}${step.why ? `, ${step.why}` : ""}`);
  add("expected", numbers(decision.expected));
  add("measured", decision.measured && numbers(decision.measured));
  add("verdict", decision.why);
  return list;
};

const decisionItem = (decision, open) => {
  const item = make("li", "decision");
  item.dataset.number = decision.number;
  item.dataset.outcome = decision.outcome;
  item.tabIndex = 0;
  item.append(
    make("span", "when", format.clock(decision.time_seconds)),
    make("span", `outcome ${OUTCOMES[decision.outcome] ?? "dim"}`, decision.outcome),
    make("span", "sentence", decision.sentence),
  );
  const toggle = () => { const old = item.querySelector("dl"); if (old) old.remove(); else item.append(details(decision)); };
  item.addEventListener("click", toggle);
  item.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
  if (open) item.append(details(decision));
  return item;
};

export const drawDecisions = (decisions, state) => {
  const old = new Map([...$("decisions").children].map((item) => [item.dataset.number, item]));
  const items = decisions.map((decision) => {
    const item = old.get(String(decision.number));
    return item?.dataset.outcome === decision.outcome ? item : decisionItem(decision, item?.querySelector("dl"));
  });
  if (!items.length) items.push(make("li", "dim none", state?.control.mode === "off" ? "none: control is off, lanes keep what the configuration gives them" : "none yet"));
  $("decisions").replaceChildren(...items);
};

export const drawCounts = (state) => {
  const counts = Object.entries(state.control.outcomes).map(([name, count]) => `${name} ${count}`).join(", ");
  const refusals = Object.entries(state.control.refusals).map(([name, count]) => `${name.replaceAll("_", " ")} ${count}`).join(", ");
  set($("decision-counts"), [counts, refusals && `refused by ${refusals}`].filter(Boolean).join("; "));
};
