
"use strict";
const KINDS = {
  exact: ["E", "exact", "stored KV, computed in this very context"],
  pair: ["P", "pair", "stored KV, computed after the same neighbour"],
  warm: ["W", "warm", "stored KV, computed after other text"],
  base: ["B", "base", "stored KV, computed after the shared prefix alone"],
  recomputed: ["R", "recomputed", "stored KV, replaced by a fresh computation"],
  computed: ["C", "computed", "no stored KV; the question is among them"],
};
const SUMS = { tokens_exact: "exact", tokens_reused: "base", tokens_recomputed: "recomputed", tokens_computed: "computed" };
const SUM_NAMES = { tokens_exact: "exact", tokens_reused: "reused in another context", tokens_recomputed: "recomputed",
  tokens_computed: "computed" };
const TIERS = { router: "kept by the router", memory: "from memory", hot: "from the hot tier", queue: "from the write queue",
  store: "from the store", unknown: "tier not known" };
const EVERY = 2000;
const MINUTE = 60000;
const FEW = 24;

const byId = (id) => document.getElementById(id);
let token = "";
let paused = false;
let timer = 0;
let asked = 0;
let samples = [];
let detailShown = "";
let focusDetail = false;
const rows = new Map();

// Everything that comes from the router is set as text, never as markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function setText(element, text) { if (element.textContent !== text) element.textContent = text; }
function number(value) { return Number(value).toLocaleString("en"); }
function seconds(value) {
  const size = Math.abs(value);
  return size >= 100 ? `${Math.round(value)} s` : size >= 1 ? `${value.toFixed(2)} s` : `${(value * 1000).toFixed(1)} ms`;
}
function bytes(value) {
  let size = Number(value);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024 || unit === "GiB") return `${unit === "B" ? size : size.toFixed(1)} ${unit}`;
    size /= 1024;
  }
  return "";
}
function kl(value) { return value === undefined ? "not known" : Number(value).toPrecision(2); }
function ago(then, now) {
  const past = Math.max(0, now - then);
  return past < 60 ? `${Math.round(past)} s ago` : past < 3600 ? `${Math.floor(past / 60)} min ago` : `${Math.floor(past / 3600)} h ago`;
}
function chosen() { return /^#[0-9a-f]{32}$/.test(location.hash) ? location.hash.slice(1) : ""; }
function tokensByKind(patches) {
  const found = {};
  for (const patch of patches) found[patch.kind] = (found[patch.kind] || 0) + patch.tokens;
  return found;
}
function inWords(found) {
  return Object.keys(KINDS).filter((kind) => found[kind]).map((kind) => `${number(found[kind])} ${kind}`).join(", ");
}
function readFrom(tokens) {
  return Object.keys(TIERS).filter((tier) => tokens[tier]).map((tier) => `${number(tokens[tier])} ${tier}`).join(", ");
}
function swatch(kind) {
  return make("span", { class: `swatch ${kind}`, "aria-hidden": "true" }, make("span", { class: "letter" }, KINDS[kind][0]));
}

// The prompt in rows of as many tokens, patches as wide as they are long.
function piece(kind, tokens, share, lettered) {
  const element = make("span", { class: kind });
  element.style.flex = `${tokens} 1 0`;
  if (lettered && share > 0.04) element.append(make("span", { class: "letter" }, KINDS[kind][0]));
  return element;
}
function drawQuilt(request) {
  const total = request.prompt_tokens;
  const width = Math.max(32, Math.ceil(total / 16));
  const drawn = [];
  let row = make("div", { class: "row" });
  let left = width;
  for (const patch of request.patches) {
    for (let rest = patch.tokens; rest > 0;) {
      const now = Math.min(rest, left);
      row.append(piece(patch.kind, now, now / width, true));
      rest -= now;
      left -= now;
      if (left === 0) { drawn.push(row); row = make("div", { class: "row" }); left = width; }
    }
  }
  if (left < width) {
    row.style.width = `${(100 * (width - left)) / width}%`;
    drawn.push(row);
  }
  const found = inWords(tokensByKind(request.patches));
  const quilt = byId("quilt");
  quilt.replaceChildren(...drawn);
  quilt.setAttribute("aria-label", `The prompt as a quilt: ${found}. The table of patches has the same in words.`);
}
function place(request, patch) {
  const chunk = patch.chunk === undefined ? undefined : request.chunks[patch.chunk];
  if (chunk === undefined) return patch.kind === "computed" ? "computed here" : "";
  const text = chunk.segment === 0 ? "shared prefix" : `document ${chunk.segment}`;
  if (patch.kind === "computed") return chunk.miss_reason ? `${text}: missed, ${chunk.miss_reason}` : text;
  const source = `${chunk.node || "the node"}, ${TIERS[chunk.tier] || TIERS.unknown}`;
  if (patch.kind === "recomputed") return `${text}: computed again; it was read: ${source}`;
  const fetched = Number(chunk.fetched_bytes) ? `, ${bytes(chunk.fetched_bytes)} fetched` : "";
  return `${text}: ${source}${fetched}, stored as ${bytes(chunk.stored_bytes)}, ${chunk.form.slice(0, 16)}`;
}
function drawPatches(request) {
  const many = request.patches_merged;
  byId("patches").replaceChildren(...request.patches.map((patch) => {
    const end = patch.begin + patch.tokens;
    const where = many ? `${number(patch.tokens)} from ${patch.begin} on` : `${patch.begin} to ${end - 1} (${number(patch.tokens)})`;
    const kind = make("td", {}, swatch(patch.kind), KINDS[patch.kind][1]);
    const from = make("td", {}, place(request, patch));
    if (patch.text) from.append(make("div", { class: "text" }, patch.text));
    return make("tr", { "data-kind": patch.kind, "data-tokens": patch.tokens }, make("td", {}, where), kind, from);
  }));
}
function facts(target, entries) {
  target.replaceChildren(...entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}
function drawDetail(data) {
  const request = data.request;
  byId("detail").hidden = !chosen();
  byId("shown").hidden = !request;
  setText(byId("gone"), request || !chosen() ? "" : "The router has no record of this request any more, or you may not see it.");
  if (!request) { detailShown = ""; return; }
  const content = JSON.stringify(request);
  if (content !== detailShown) {
    detailShown = content;
    setText(byId("h-detail"), `Request ${request.request_id}`);
    setText(byId("summary"), `${number(request.prompt_tokens)} tokens: ${inWords(tokensByKind(request.patches))}.`);
    drawQuilt(request);
    drawPatches(request);
    setText(byId("h-patches"), `All ${request.patches.length} patches as a table`);
    byId("patches-part").open = request.patches.length <= FEW;
    setText(byId("merged"), request.patches_merged
      ? "These were too many runs of tokens to draw: those of one chunk, or prompt, that are of one kind are drawn together." : "");
    facts(byId("facts"), [
      ["Namespace", request.namespace], ["Model", request.model], ["Sent", request.extent],
      ["Level", request.level], ["Policy", `${request.policy} at ${Math.round(100 * request.recompute_ratio)} %`],
      ["Gate", request.gate_refusal || (data.status.ungated ? "not asked" : "no objection")], ["Predicted divergence, below", kl(request.predicted_kl)],
      ["Audited divergence", request.audited_kl === undefined ? "not audited" : kl(request.audited_kl)],
      ["Asked to stay below", kl(request.max_kl)], ["Observed deviation", request.observed_deviation.toPrecision(2)],
      ["Fetched", bytes(request.fetched_bytes)], ["Tokens read from", readFrom(request.tokens_by_tier) || "nothing"], ["Time to fetch", seconds(request.fetch_seconds)],
      ["to select", seconds(request.select_seconds)], ["to compute", seconds(request.compute_seconds)],
      ["both at once", seconds(request.overlap_seconds)], ["in all", seconds(request.total_seconds)],
      ["Saved", request.saved_seconds === undefined ? "not known" : seconds(request.saved_seconds)],
    ]);
  }
  if (focusDetail) { focusDetail = false; byId("h-detail").focus(); }
}
function drawRequests(data) {
  const list = byId("requests");
  const seen = new Set(data.requests.map((request) => request.request_id));
  for (const [id, row] of rows) if (!seen.has(id)) { row.remove(); rows.delete(id); }
  let before = null;
  for (const request of data.requests) {
    let row = rows.get(request.request_id);
    if (!row) {
      const found = tokensByKind(request.patches);
      const strip = make("span", { class: "strip", "aria-hidden": "true" });
      for (const patch of request.patches) strip.append(piece(patch.kind, patch.tokens, patch.tokens / request.prompt_tokens, true));
      const saved = request.saved_seconds === undefined ? "" : `, saved ${seconds(request.saved_seconds)}`;
      const button = make("button", { type: "button", "data-id": request.request_id },
        make("span", { class: "line" },
          make("span", {}, `${number(request.prompt_tokens)} tokens, `, make("span", { class: "when" })),
          make("span", {}, `${seconds(request.total_seconds)}${saved}`)),
        make("span", { class: "line" },
          make("span", { class: "quiet" }, `${inWords(found)}`),
          make("span", { class: "quiet" }, `${request.namespace} ${request.request_id.slice(0, 8)}`)),
        strip);
      button.addEventListener("click", () => { focusDetail = true; location.hash = request.request_id; ask(); });
      row = make("li", {}, button);
      rows.set(request.request_id, row);
    }
    const button = row.firstChild;
    setText(button.querySelector(".when"), ago(request.unix_seconds, data.unix_seconds));
    if (request.request_id === chosen()) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    const next = before ? before.nextSibling : list.firstChild;
    if (next !== row) list.insertBefore(row, next);
    before = row;
  }
  byId("none").hidden = data.requests.length > 0;
}
function bar(name, words, kind, count, all) {
  const share = all ? (100 * count) / all : 0;
  const fill = make("span", { class: kind });
  fill.style.width = `${share}%`;
  return make("li", { "data-sum": name }, `${number(count)} ${words} (${share.toFixed(0)} %)`,
    make("span", { class: "bar", "aria-hidden": "true" }, fill));
}
function drawSums(data) {
  const sums = {};
  for (const own of Object.values(data.status.usage))
    for (const [name, value] of Object.entries(own)) sums[name] = (sums[name] || 0) + Number(value);
  const saved = ((sums.milliseconds_saved || 0) - (sums.milliseconds_lost || 0)) / 1000;
  const prompt = Object.keys(SUMS).reduce((all, name) => all + (sums[name] || 0), 0);
  const now = { at: data.unix_seconds * 1000, saved, prompt };
  samples = samples.filter((sample) => now.at - sample.at <= MINUTE && sample.prompt <= prompt);
  samples.push(now);
  const first = samples[0];
  const span = (now.at - first.at) / 1000;
  facts(byId("sums"), [
    ["Seconds saved", seconds(saved)],
    ["Saved in the last minute", span ? seconds(saved - first.saved) : "not known yet"],
    ["Tokens a second", span ? number(Math.round((prompt - first.prompt) / span)) : "not known yet"],
    ["Requests", number(sums.blends || 0)],
    ["Fetched", bytes(sums.bytes_fetched || 0)],
  ]);
  byId("tokens").replaceChildren(...Object.entries(SUMS).map(([name, kind]) => bar(name, SUM_NAMES[name], kind, sums[name] || 0, prompt)));
  const read = Object.keys(TIERS).map((tier) => [tier, sums[`tokens_from_${tier}`] || 0]).filter(([, count]) => count);
  const stored = read.reduce((all, [, count]) => all + count, 0);
  byId("tiers").replaceChildren(...read.map(([tier, count]) => bar(`tokens_from_${tier}`, TIERS[tier], "pair", count, stored)));
  byId("tiers-part").hidden = !read.length;
}
function drawState(state) {
  const away = state.nodes.filter((node) => !node.reachable || !node.serving || node.breaker !== "closed");
  const words = !state.nodes.length || state.nodes.every((node) => !node.reachable)
    ? "No cache node answers: everything is computed."
    : away.length ? `${away.length} of ${state.nodes.length} cache nodes are not well.` : "Healthy: every cache node answers.";
  setText(byId("health"), words);
  byId("health").className = away.length || !state.nodes.length ? "bad" : "";
  setText(byId("version"), `version ${state.version}`);
  byId("nodes").replaceChildren(...state.nodes.map((node) => {
    const entry = make("li", {}, make("strong", {}, node.target), ` ${node.reachable ? "answers" : "DOES NOT ANSWER"}, breaker ${node.breaker.replace("_", " ")}`
      + `${node.serving ? "" : ", drains"}${node.store ? `, store ${node.store}` : ""}`
      + `${node.round_trip_seconds === undefined ? "" : `, answers in ${seconds(node.round_trip_seconds)}`}`);
    for (const tier of node.tiers) {
      const label = `${tier.name}: ${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)}`;
      const share = Number(tier.capacity_bytes) ? (100 * Number(tier.used_bytes)) / Number(tier.capacity_bytes) : 0;
      const fill = make("span", { class: "pair" });
      fill.style.width = `${Math.min(100, share)}%`;
      entry.append(make("div", {}, `${label} (${share.toFixed(0)} %)`, make("span", { class: "bar", "aria-hidden": "true" }, fill)));
    }
    return entry;
  }));
  byId("queues-part").hidden = !state.queues.length;
  byId("queues").replaceChildren(...state.queues.map((queue) => {
    const shown = queue.name === "saves" ? bytes : number;
    return make("li", {}, `${queue.name}: ${shown(queue.length)} of at most ${shown(queue.limit)}`);
  }));
  byId("models").replaceChildren(...state.models.map((model) => {
    const gate = model.gate.missing_reason ? `no gate (${model.gate.missing_reason})`
      : `gate of ${model.gate.points} points, ${model.gate.withdrawn} withdrawn; ${model.gate.audits} audits, ${model.gate.audits_exceeded} beyond their bound`;
    return make("li", {}, make("strong", {}, model.name), ` ${model.architecture}; ${gate}${state.ungated ? "; UNGATED: for evaluation only" : ""}`);
  }));
}
function draw(data) {
  byId("signin").hidden = true;
  byId("main").hidden = false;
  drawState(data.status);
  drawSums(data);
  drawRequests(data);
  drawDetail(data);
}
function signIn(reason) {
  byId("main").hidden = true;
  rows.clear();
  samples = [];
  byId("requests").replaceChildren();
  byId("signin").hidden = false;
  setText(byId("health"), "This router asks who you are.");
  byId("health").className = "";
  setText(byId("refused"), token ? `The token was refused: ${reason}.` : "");
}
async function get(request) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const query = request ? `?request=${request}` : "";
  const answer = await fetch(`/status.json${query}`, { headers, cache: "no-store", credentials: "omit", redirect: "error" });
  return { status: answer.status, data: await answer.json() };
}
async function ask() {
  clearTimeout(timer);
  const turn = ++asked;
  try {
    let { status, data } = await get(chosen());
    if (status === 404 && chosen()) ({ status, data } = await get(""));
    if (turn !== asked) return;
    if (status === 200) draw(data);
    else if (status === 401 || status === 403) { signIn(data.error.reason); return; }
    else { setText(byId("health"), `The router refuses: ${data.error.message}`); byId("health").className = "bad"; }
  } catch (error) {
    if (turn !== asked) return;
    setText(byId("health"), "The router does not answer. Trying again.");
    byId("health").className = "bad";
  }
  if (!paused && !document.hidden) timer = setTimeout(ask, EVERY);
}
byId("signin").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  ask();
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Go on" : "Pause");
  if (!paused) ask(); else clearTimeout(timer);
});
window.addEventListener("hashchange", ask);
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) ask(); });
byId("legend").replaceChildren(...Object.keys(KINDS).map((kind) => make("li", {}, swatch(kind), make("strong", {}, KINDS[kind][1]), `: ${KINDS[kind][2]}`)));
ask();
