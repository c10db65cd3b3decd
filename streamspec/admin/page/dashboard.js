import { CellChart, TimeChart, colour } from "./charts.js";
import { Refused, get, hasToken, listen, post, setToken, takeTokenFromAddress } from "./feed.js";
import * as format from "./format.js";
import { drawCounts, drawDecisions, drawHealth, drawLanes, drawNow } from "./panels.js";

const KEPT_POINTS = 3600;
const KEPT_DECISIONS = 300;
const LIGHT = ["#2563c9", "#c2571a", "#1a7f4b", "#8a3fb0", "#a3203f", "#0d7f8c", "#7a6a00", "#5b5fc7", "#b0478f", "#4d6b2f"];
const DARK = ["#7aa8f5", "#f0a06a", "#5ccf98", "#c792ea", "#f28b9c", "#5fd0dc", "#d6c452", "#a3a7f7", "#ec8fce", "#a6c97f"];
const OUTCOMES = { applied: "--accent", kept: "--good", undone: "--bad", refused: "--warn", recommended: "--dim" };

const $ = (id) => document.getElementById(id);
const points = []; // ascending in time, never more than KEPT_POINTS
const decisions = new Map(); // by number, never more than KEPT_DECISIONS
const colours = new Map();
let state = null;
let rangeSeconds = 300;
let connected = false;

const charts = {
  latency: new TimeChart("latency", { format: format.seconds, log: true }),
  throughput: new TimeChart("throughput", { format: format.bytesPerSecond, base: 1024 }),
  content: new TimeChart("content", { format: format.bytesPerSecond, base: 1024, stacked: true }),
  work: new TimeChart("work", { format: (value) => (value ? `${format.seconds(value)}/s` : "0") }),
  cells: new CellChart("cells", format.seconds),
};

const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const colourOf = (name) => {
  if (!colours.has(name)) colours.set(name, colours.size);
  const palette = dark() ? DARK : LIGHT;
  return palette[colours.get(name) % palette.length];
};

const namesIn = (part, from) => {
  const names = new Set();
  for (let i = points.length - 1; i >= 0 && points[i].at >= from; i -= 1) for (const name in points[i][part]) names.add(name);
  return [...names].sort((a, b) => (colours.get(a) ?? 99) - (colours.get(b) ?? 99));
};

const drawCharts = () => {
  if (document.hidden) return;
  const newest = Math.max(...[...decisions.values()].map((decision) => decision.time_seconds));
  const to = state ? Math.max(state.now_seconds, Math.min(newest, state.now_seconds + 2)) : Date.now() / 1000;
  // A service that has just started fills the width with what there is.
  const from = to - Math.min(rangeSeconds, Math.max(60, to - (points[0]?.at ?? to) + 5));
  const marks = [...decisions.values()].map((decision) => ({
    at: decision.time_seconds,
    colour: colour(OUTCOMES[decision.outcome] ?? "--accent"),
    sentence: decision.sentence,
    title: `decision ${decision.number}, ${decision.outcome}`,
  }));
  const of = (name, column) => ({ name, colour: colourOf(name), value: (point) => point.lanes[name]?.[column] });
  const lanes = namesIn("lanes", from);
  const common = { points, from, to, marks };
  charts.latency.draw({ ...common, series: lanes.map((name) => of(name, 3)), limit: state?.objective.latency_seconds });
  charts.throughput.draw({ ...common, series: lanes.map((name) => of(name, 1)) });
  charts.content.draw({
    ...common,
    series: namesIn("content", from).map((name) => ({ name, colour: colourOf(name), value: (point) => point.content[name] })),
  });
  charts.work.draw({
    ...common,
    series: [
      { name: "predicted", colour: colour("--dim"), dashed: true, value: (point) => point.work[0] },
      { name: "measured", colour: colour("--accent"), value: (point) => point.work[1] },
    ],
  });
  charts.cells.draw();
};

// However many events come, at most one drawing a frame.
let scheduled = false;
const draw = () => {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; drawAll(); });
};

const drawAll = () => {
  if (state && !document.hidden) {
    drawNow(state, connected);
    drawHealth(state);
    drawLanes(state, colourOf);
    drawCounts(state);
    $("latency-note").textContent = `${state.objective.percentile}th percentile, dashed: ${format.seconds(state.objective.latency_seconds)}`;
    $("work-note").textContent = state.work_error_ratio === null ? "" : `error ${format.ratio(state.work_error_ratio)}`;
    drawSwitches();
  }
  drawCharts();
};

const addPoint = (point) => {
  if (points.length && point.at <= points[points.length - 1].at) return;
  points.push(point);
  if (points.length > KEPT_POINTS) points.splice(0, points.length - KEPT_POINTS);
};

const addDecisions = (found) => {
  for (const decision of found) decisions.set(decision.number, decision);
  const numbers = [...decisions.keys()].sort((a, b) => a - b);
  for (const number of numbers.slice(0, Math.max(numbers.length - KEPT_DECISIONS, 0))) decisions.delete(number);
  drawDecisions([...decisions.values()].sort((a, b) => b.number - a.number), state);
};

const loadHistory = async () => {
  const newest = await get("api/v1/history?limit=300");
  points.splice(0, points.length, ...newest.filter((point) => !points.length || point.at < points[0].at), ...points);
  draw();
  if (newest.length < 300) return;
  const older = await get(`api/v1/history?before=${Math.floor(newest[0].at)}`);
  points.unshift(...older.filter((point) => point.at < points[0].at).slice(points.length - KEPT_POINTS));
  draw();
};

const take = {
  state: (value) => { state = value; charts.cells.add(value.work_cells); draw(); },
  point: addPoint,
  decision: (value) => { addDecisions([value]); draw(); },
};

const follow = async () => {
  let wait = 500;
  for (;;) {
    try {
      await listen(take, async () => {
        connected = true;
        wait = 500;
        $("ask").hidden = true;
        try {
          points.length = 0;
          await loadHistory();
          addDecisions(await get(`api/v1/decisions?limit=${KEPT_DECISIONS}`));
        } catch (error) { console.warn(error.message); }
      });
    } catch (error) {
      if (error instanceof Refused && error.status === 401) { await askForToken(); continue; }
    }
    connected = false;
    if (state) drawNow(state, connected);
    else $("phase").textContent = "not reachable";
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 8000);
  }
};

const askForToken = () => new Promise((resolve) => {
  $("ask").hidden = false;
  $("ask-error").textContent = hasToken() ? "that was not it" : "";
  $("token").focus();
  $("ask").onsubmit = (event) => { event.preventDefault(); setToken($("token").value.trim()); $("token").value = ""; resolve(); };
});

const drawSwitches = () => {
  const allowed = hasToken();
  $("modes").hidden = !allowed;
  $("learning").hidden = !allowed || !state.learning;
  for (const button of $("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === state.control.mode));
  if (state.learning) $("learning").textContent = state.learning.paused ? "resume learning" : "pause learning";
};

const change = async (body) => {
  try {
    await post("api/v1/control", body);
    $("switch-error").textContent = "";
  } catch (error) { $("switch-error").textContent = error.message; }
};

$("modes").addEventListener("click", (event) => event.target.dataset.mode && change({ mode: event.target.dataset.mode }));
$("learning").addEventListener("click", () => change({ learning: state.learning.paused ? "run" : "pause" }));
$("range").addEventListener("click", (event) => {
  if (!event.target.dataset.seconds) return;
  rangeSeconds = Number(event.target.dataset.seconds);
  for (const button of $("range").children) button.setAttribute("aria-pressed", String(button === event.target));
  drawCharts();
});
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  draw();
});
if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
addEventListener("resize", drawCharts);
document.addEventListener("visibilitychange", draw);
takeTokenFromAddress();
drawCharts();
follow();
