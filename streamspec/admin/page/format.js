// Numbers as people read them.

const steps = (value, units, base) => {
  let i = 0;
  while (Math.abs(value) >= base && i < units.length - 1) { value /= base; i += 1; }
  return `${value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(2)} ${units[i]}`.trim();
};

export const count = (value) => steps(value, ["", "k", "M", "G"], 1000);
export const bytes = (value) => steps(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
export const bytesPerSecond = (value) => `${bytes(value)}/s`;
export const ratio = (value) => (value === null ? "-" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`);

export const seconds = (value) => {
  if (value === null || value === undefined) return "-";
  if (value >= 100) return `${value.toFixed(0)} s`;
  for (const [scale, unit] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]) {
    if (value >= scale) return `${Number((value / scale).toPrecision(3))} ${unit}`;
  }
  return `${(value * 1e9).toFixed(0)} ns`;
};

export const span = (value) => {
  const whole = Math.floor(value);
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
};

export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });
