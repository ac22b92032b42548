"use strict";

const form = document.getElementById("row");
const answer = document.getElementById("answer");
const fields = [...form.querySelectorAll("[data-column]")];
const MOST_CLASSES = 20;

/** Return a field's value as JSON has it: what is no number goes as a text, and the server says what it expected. */
function valueOf(field) {
  const text = field.value;
  if (text.trim() === "") return null;
  const number = Number(text);
  return ["number", "duration"].includes(field.dataset.kind) && Number.isFinite(number) ? number : text;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text; // never HTML: names and classes are anybody's
  parent.append(made);
  return made;
}

function show(values) {
  for (const [name, value] of Object.entries(values)) {
    if (!name.startsWith("prediction")) continue;
    const line = element("p", name.replace(/^prediction_?/, ""), answer);
    line.append(" ");
    element("output", value, line);
  }
  const probabilities = Object.entries(values).filter(([name]) => name.startsWith("probability_"));
  probabilities.sort(([, one], [, other]) => other - one);
  if (!probabilities.length) return;
  const table = element("table", "", answer);
  for (const [name, share] of probabilities.slice(0, MOST_CLASSES)) {
    const row = element("tr", "", table);
    element("th", name.slice("probability_".length), row).scope = "row";
    element("td", `${(100 * share).toFixed(1)} %`, row);
    const meter = element("meter", "", element("td", "", row));
    meter.value = share;
  }
}

async function ask() {
  const row = Object.create(null); // a column may be called __proto__
  for (const field of fields) row[field.dataset.column] = valueOf(field);
  const response = await fetch("predict", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ rows: [row] }),
  });
  const said = await response.json();
  answer.replaceChildren();
  if (!response.ok) {
    element("p", said.error, answer).className = "error";
    return;
  }
  show(said.predictions[0]);
  const strange = Object.keys(said.strange_values);
  if (strange.length) element("p", `Rare, or not there, in training: ${strange.join(", ")}`, answer).className = "notice";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask();
  } catch (error) {
    answer.replaceChildren();
    element("p", `No answer: ${error.message}`, answer).className = "error";
  }
});

document.getElementById("example").addEventListener("click", () => {
  for (const field of fields) field.value = field.placeholder;
});
