// Doubts by keyboard, mouse and touch. What was decided is told to the server, which tells the list anew.
"use strict";

const mine = []; // Reviews made on this page, newest last: `u` takes back these and nobody else's.
let after = null; // Where the focus goes when the list is there again: an annotation, or the place it had.

const list = () => document.getElementById("doubts");
const all = () => [...list().querySelectorAll(".doubt")];
const current = () => document.activeElement?.closest(".doubt");

function tell(sentence, wrong = false) {
  const answer = document.getElementById("answer");
  answer.textContent = sentence;
  answer.classList.toggle("wrong", wrong);
}

function go(doubt) {
  if (!doubt) return;
  for (const each of all()) each.tabIndex = each === doubt ? 0 : -1;
  doubt.focus();
  doubt.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const doubts = all();
  const place = doubts.indexOf(current());
  go(place < 0 ? doubts[0] : doubts[Math.min(Math.max(place + by, 0), doubts.length - 1)]);
}

async function post(path, body) {
  const answer = await fetch(`/api/projects/${list().dataset.project}/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof told.detail === "string" ? told.detail : `Tandem answered ${answer.status}.`);
  return told;
}

async function decide(doubt, act, label) {
  if (doubt.getAttribute("aria-busy") === "true") return;
  const { annotation, task, seen } = doubt.dataset;
  const was = JSON.parse(seen);
  const place = all().indexOf(doubt);
  doubt.setAttribute("aria-busy", "true");
  try {
    const review = await post(`doubts/${annotation}/${act}`, act === "confirm" ? { seen: was } : { seen: was, label: [label] });
    mine.push(review.id);
    tell(act === "confirm" ? `Task ${task}: ${was.join(" + ")} is right.` : `Task ${task} is labelled ${label} now.`);
    after = { next: all()[place + 1]?.id, place };
    htmx.trigger(list(), "reviewed");
  } catch (error) {
    tell(`Task ${task}: ${error.message}`, true);
    doubt.removeAttribute("aria-busy");
  }
}

async function undo(review) {
  try {
    const told = await post(`reviews/${review}/undo`, {});
    mine.splice(0, mine.length, ...mine.filter((each) => each !== told.id));
    tell(`Taken back: task ${told.task_id} says ${told.before.join(" + ")} again.`);
    after = { next: `doubt-${told.annotation_id}`, place: 0 };
    htmx.trigger(list(), "reviewed");
  } catch (error) {
    tell(error.message, true);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  if (button.dataset.do === "undo") undo(Number(button.dataset.review));
  else decide(button.closest(".doubt"), button.dataset.do, button.dataset.label);
});

document.addEventListener("change", (event) => {
  const other = event.target.closest("select[data-do]");
  if (other?.value) decide(other.closest(".doubt"), "correct", other.value);
});

document.addEventListener("keydown", (event) => {
  const at = document.activeElement;
  if (event.ctrlKey || event.metaKey || event.altKey || at.matches("input, select, textarea, summary")) return;
  const doubt = current();
  // Keys belong to the list: they do nothing while something else has the focus.
  if (!doubt && at !== document.body && at.id !== "main") return;
  if (["j", "ArrowDown"].includes(event.key)) step(1);
  else if (["k", "ArrowUp"].includes(event.key)) step(-1);
  else if (event.key === "u" && mine.length) undo(mine.at(-1));
  else if (doubt && event.key === "Enter" && at === doubt) decide(doubt, "confirm");
  else if (doubt && /^\d$/.test(event.key)) {
    const button = doubt.querySelector(`button[data-key="${event.key}"]`);
    if (!button || button.disabled) return;
    button.click();
  } else return;
  event.preventDefault();
});

document.addEventListener("htmx:afterSettle", (event) => {
  if (!after || event.target.id !== "doubts") return;
  const doubts = all();
  go(document.getElementById(after.next) ?? doubts[Math.min(after.place, doubts.length - 1)]);
  after = null;
});
