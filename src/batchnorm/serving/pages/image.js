"use strict";

const input = document.getElementById("file");
const preview = document.getElementById("preview");
const MOST_PIXELS = 320; // of the preview's longer side

function draw(bitmap) {
  const scale = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height));
  preview.width = Math.max(1, bitmap.width * scale);
  preview.height = Math.max(1, bitmap.height * scale);
  preview.getContext("2d").drawImage(bitmap, 0, 0, preview.width, preview.height);
}

async function choose() {
  const isLatest = begin();
  preview.hidden = true;
  if (!input.files.length) return;
  const bitmap = await createImageBitmap(input.files[0]).catch(() => null); // what is wrong with it, the server says
  if (!bitmap || !isLatest()) return;
  draw(bitmap);
  preview.hidden = false;
}

input.addEventListener("change", choose);

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault(); // the browser would open it
  if (!event.dataTransfer.files.length) return;
  input.files = event.dataTransfer.files;
  choose();
});

/** Have a form ask with an image, and the answer stand behind it. */
function askOnSubmit(form, end, image) {
  onSubmit(form, async () => {
    end.after(answer);
    const body = await image();
    const said = await ask(body, body.type);
    for (const notice of said?.notices ?? []) say(notice, "notice");
  });
}

askOnSubmit(document.getElementById("image"), preview, () => input.files[0]);

const drawing = document.getElementById("drawing");
if (drawing) {
  const seen = document.getElementById("play-seen"); // the drawing, as large as the network's images
  askOnSubmit(drawing, drawing, () => new Promise((done) => seen.toBlob(done, "image/png")));
}
