"use strict";

const answer = document.getElementById("answer");
const MOST_CLASSES = 20;
const MOST_ROWS = 20;
let latest = 0; // what was asked before is not shown any more

/** Empty the answer, for another one; return a function that tells whether it is still the latest. */
function begin() {
  const number = ++latest;
  answer.replaceChildren();
  return () => number === latest;
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

function say(text, kind) {
  element("p", text, answer).className = kind;
}

/** Send a body and show the first predictions, or what is wrong; return the answer if predictions are shown. */
async function ask(body, type) {
  const isLatest = begin();
  const response = await fetch("predict", { method: "POST", headers: { "Content-Type": type }, body });
  const said = await response.json();
  if (!isLatest()) return null;
  if (!response.ok) {
    say(said.error, "error");
    return null;
  }
  said.predictions.slice(0, MOST_ROWS).forEach(show);
  const more = said.predictions.length - MOST_ROWS;
  if (more > 0) say(`and ${more} more`, "notice");
  return said;
}

/** Have a form call a function in place of leaving the page. */
function onSubmit(form, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await act();
    } catch (error) {
      begin();
      say(`No answer: ${error.message}`, "error");
    }
  });
}
