"use strict";

const form = document.getElementById("row");
const fields = [...form.querySelectorAll("[data-column]")];

/** Return a field's value as JSON has it: what is no number goes as a text, and the server says what it expected. */
function valueOf(field) {
  const text = field.value;
  if (text.trim() === "") return null;
  const number = Number(text);
  return ["number", "duration"].includes(field.dataset.kind) && Number.isFinite(number) ? number : text;
}

onSubmit(form, async () => {
  const row = Object.create(null); // a column may be called __proto__
  for (const field of fields) row[field.dataset.column] = valueOf(field);
  const said = await ask(JSON.stringify({ rows: [row] }), "application/json");
  const strange = Object.keys(said?.strange_values ?? {});
  if (strange.length) say(`Rare, or not there, in training: ${strange.join(", ")}`, "notice");
});

document.getElementById("example").addEventListener("click", () => {
  for (const field of fields) field.value = field.placeholder;
});
