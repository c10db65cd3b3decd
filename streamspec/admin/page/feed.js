// What comes from the service: the hour behind us in pieces, then events as they come, for ever.

const HEADERS = () => {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
};

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export const hasToken = () => sessionStorage.getItem("token") !== null;
export const setToken = (token) => sessionStorage.setItem("token", token);

// A token in the address's fragment never leaves the browser.
export const takeTokenFromAddress = () => {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) { setToken(found); history.replaceState(null, "", location.pathname); }
};

const checked = async (response) => {
  if (response.ok) return response;
  let text = response.statusText;
  try { text = (await response.json()).error ?? text; } catch { /* not JSON */ }
  throw new Refused(response.status, text);
};

export const get = async (path) => (await checked(await fetch(path, { headers: HEADERS() }))).json();

export const post = async (path, body) =>
  (await checked(await fetch(path, {
    method: "POST", headers: { ...HEADERS(), "Content-Type": "application/json" }, body: JSON.stringify(body),
  }))).json();

// Calls take[event](value) for each event until the connection ends.
export const listen = async (take, opened) => {
  const response = await checked(await fetch("api/v1/events", { headers: HEADERS() }));
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [name, ...content] = event.split("\n");
      take[name.slice(7)]?.(JSON.parse(content.map((line) => line.slice(6)).join("\n")));
    }
  }
};
