// What lives on a page: parts of it are fetched anew while a run goes on, and a line follows the pointer over a curve. Nothing else
// needs it: without it all links and forms work, and a reload shows what is new.
"use strict";

// Parts that changed are put in the place of the old ones, unless somebody is using them.
async function refresh() {
  const address = location.href;
  const response = await fetch(address, { headers: { accept: "text/html" }, redirect: "error" });
  if (!response.ok) return false;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  // Meanwhile something else was chosen: this answer is an old one.
  if (location.href !== address) return true;
  for (const part of document.querySelectorAll("[data-part]")) {
    const next = fresh.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
    if (!next || next.innerHTML === part.dataset.shown) continue;
    if (!part.dataset.shown && next.innerHTML === part.innerHTML) continue;
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    // A box that was ticked stays ticked; a field that is being filled in stays as it is.
    if (active && active.matches("input:not([type=checkbox]), select, textarea")) continue;
    const ticked = [...part.querySelectorAll("input:checked")].map((box) => `${box.name}=${box.value}`);
    const scrolled = [...part.querySelectorAll(".scroll[id]")].map((box) => [box.id, box.scrollLeft]);
    const place = active && (active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") && `a[href="${CSS.escape(active.getAttribute("href"))}"]`);
    const shown = next.innerHTML;
    part.replaceChildren(...document.adoptNode(next).childNodes);
    part.dataset.shown = shown;
    for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = ticked.includes(`${box.name}=${box.value}`);
    for (const [id, left] of scrolled) {
      const box = document.getElementById(id);
      if (box) box.scrollLeft = left;
    }
    if (place) part.querySelector(place)?.focus({ preventScroll: true });
  }
  return fresh.body.hasAttribute("data-live");
}

// As often as the page says, longer while the server does not answer, and not while nobody looks.
function live(seconds) {
  let failures = 0;
  const wait = () => setTimeout(look, 1000 * seconds * 2 ** Math.min(failures, 4));
  const look = async () => {
    if (document.hidden) {
      document.addEventListener("visibilitychange", look, { once: true });
      return;
    }
    try {
      if (!(await refresh())) failures += 1;
      else failures = 0;
    } catch {
      failures += 1;
    }
    wait();
  };
  wait();
}

const SVG = "http://www.w3.org/2000/svg";

// The points of a chart's lines, as the server has drawn them: left, top, epoch, value.
function linesOf(chart) {
  return [...chart.querySelectorAll("path[data-values]")].map((path) => ({
    name: path.dataset.name,
    points: path.dataset.values.split(";").filter(Boolean).map((point) => point.split(" ")),
  }));
}

function nearest(points, left) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point[0] - left) < Math.abs(best[0] - left)) best = point;
  return best;
}

function leave(figure) {
  figure.querySelector(".cross")?.remove();
  figure.querySelector(".tip")?.remove();
}

// A line at the points nearest to the pointer, and what they are.
function follow(event) {
  const chart = event.target.closest?.("svg.chart");
  for (const figure of document.querySelectorAll("figure:has(.cross)")) if (!figure.contains(chart)) leave(figure);
  if (!chart) return;
  const figure = chart.closest("figure");
  const box = chart.getBoundingClientRect();
  const scale = chart.viewBox.baseVal.width / box.width;
  const left = (event.clientX - box.left) * scale;
  const hits = new Map();
  for (const line of linesOf(chart)) {
    const point = nearest(line.points, left);
    const other = hits.get(line.name);
    if (point && (!other || Math.abs(point[0] - left) < Math.abs(other[0] - left))) hits.set(line.name, point);
  }
  leave(figure);
  if (hits.size === 0) return;
  const at = nearest([...hits.values()], left)[0];
  const cross = document.createElementNS(SVG, "g");
  cross.setAttribute("class", "cross");
  const rule = document.createElementNS(SVG, "path");
  rule.setAttribute("d", `M${at} ${chart.dataset.top}V${chart.dataset.bottom}`);
  cross.append(rule);
  const tip = document.createElement("div");
  tip.className = "tip";
  const head = document.createElement("strong");
  head.textContent = `epoch ${Number(nearest([...hits.values()], left)[2])}`;
  tip.append(head);
  for (const [name, point] of hits) {
    const dot = document.createElementNS(SVG, "circle");
    for (const [key, value] of [["cx", point[0]], ["cy", point[1]], ["r", 4]]) dot.setAttribute(key, value);
    cross.append(dot);
    const row = document.createElement("div");
    row.textContent = `${name} ${point[3]}`;
    tip.append(row);
  }
  const firstMark = chart.querySelector(".mark");
  chart.insertBefore(cross, firstMark);
  figure.append(tip);
  const frame = figure.getBoundingClientRect();
  const beside = box.left - frame.left + at / scale;
  const flips = beside + 14 + tip.offsetWidth > frame.width;
  tip.style.left = `${flips ? Math.max(4, beside - 14 - tip.offsetWidth) : beside + 14}px`;
  tip.style.top = `${box.top - frame.top + 12}px`;
}

document.addEventListener("pointermove", follow);
document.addEventListener("pointerleave", follow);

// A choice is shown at once, in its place, so that whoever goes by keys stays where they are; the address follows, to be sent on.
for (const form of document.querySelectorAll("form[data-submits]")) {
  form.addEventListener("change", async () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
    history.replaceState(null, "", `?${new URLSearchParams(chosen)}`);
    try {
      await refresh();
    } catch {
      form.requestSubmit();
    }
  });
}

if (document.body.dataset.live) live(Number(document.body.dataset.live));
