// What stays when a part of a page is renewed: details that were open, and one spoken sentence of what is new.
"use strict";

const open = new Set();

document.addEventListener("toggle", (event) => {
  if (event.target.id && event.target.isConnected) {
    event.target.open ? open.add(event.target.id) : open.delete(event.target.id);
  }
}, true);

document.addEventListener("htmx:load", (event) => {
  for (const details of event.target.querySelectorAll("details[id]")) {
    if (open.has(details.id)) details.open = true;
  }
  const said = document.getElementById("said");
  const news = event.target.querySelector("[data-say]")?.dataset.say;
  // Nothing is said of what the page began with.
  if (news && said.dataset.last && news !== said.dataset.last) said.textContent = news;
  if (news) said.dataset.last = news;
});
