// What stays when a part of a page is renewed: details that were open, the focus, and one spoken sentence of what is new.
"use strict";

const open = new Set();
const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";
let focused = null;

document.addEventListener("toggle", (event) => {
  if (event.target.id && event.target.isConnected) {
    event.target.open ? open.add(event.target.id) : open.delete(event.target.id);
  }
}, true);

// htmx puts the focus back on what has an id; the rest is found by its place in the part.
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  const active = document.activeElement;
  const place = active && !active.id ? [...part.querySelectorAll(FOCUSABLE)].indexOf(active) : -1;
  focused = place < 0 ? null : { part: part.id, place, tag: active.tagName };
});

document.addEventListener("htmx:load", (event) => {
  const part = event.target;
  for (const details of part.querySelectorAll("details[id]")) {
    if (open.has(details.id)) details.open = true;
  }
  if (focused && focused.part === part.id && document.activeElement === document.body) {
    const now = part.querySelectorAll(FOCUSABLE)[focused.place];
    if (now?.tagName === focused.tag) now.focus({ preventScroll: true });
    focused = null;
  }
  const said = document.getElementById("said");
  const news = part.querySelector("[data-say]")?.dataset.say;
  // Nothing is said of what the page began with.
  if (news && said.dataset.last && news !== said.dataset.last) said.textContent = news;
  if (news) said.dataset.last = news;
});
