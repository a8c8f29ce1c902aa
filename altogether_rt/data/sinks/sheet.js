// Captions can be edited on the sheet and saved as the rows that they came from.
"use strict";

const cards = [...document.querySelectorAll("article")];
const texts = cards.map((card) => card.querySelector(".text")).filter(Boolean);
const status = document.getElementById("status");
// As rows are written: nothing in a line ends it, or turns it around, for another reader.
const UNSAFE = /[\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
let saved = true;

const textOf = (element) => element.innerText.replace(/\s+/g, " ").trim();
const before = new Map(texts.map((element) => [element, textOf(element)]));
const isChanged = (element) => textOf(element) !== before.get(element) && textOf(element) !== "";

function changed() {
  const count = texts.filter(isChanged).length;
  const empty = texts.filter((element) => textOf(element) === "" && before.get(element) !== "");
  status.textContent =
    (count === 1 ? "1 caption changed" : `${count} captions changed`) +
    (empty.length ? `; ${empty.length} empty, to be kept as before` : "") +
    (saved || !count ? "" : ", not saved");
}

function asJson(text) {
  const escape = (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0");
  return JSON.stringify(text).replace(UNSAFE, escape);
}

function line(card) {
  const text = card.querySelector(".text");
  if (!text || !isChanged(text)) return card.dataset.row;
  return `${card.dataset.head}${asJson(textOf(text))}${card.dataset.tail}, "edited": true}`;
}

for (const text of texts) {
  text.setAttribute("contenteditable", "plaintext-only");
  if (text.contentEditable !== "plaintext-only") text.contentEditable = "true";
  text.setAttribute("role", "textbox");
  text.setAttribute("aria-multiline", "true");
  text.spellcheck = true;
  text.addEventListener("input", () => {
    saved = false;
    const card = text.closest("article");
    card.classList.toggle("changed", isChanged(text));
    const image = card.querySelector("img");
    if (image && textOf(text)) image.alt = textOf(text);
    changed();
  });
  text.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") {
      event.preventDefault();
      text.blur();
    } else if (event.key === "Escape") {
      text.textContent = before.get(text);
      text.dispatchEvent(new Event("input"));
      text.blur();
    }
  });
}

document.getElementById("save").addEventListener("click", () => {
  const rows = cards.map((card) => line(card) + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows], { type: "application/jsonl" }));
  link.download = document.body.dataset.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  saved = true;
  changed();
  status.textContent += `; saved as ${link.download}`;
});

addEventListener("beforeunload", (event) => {
  if (!saved && texts.some(isChanged)) event.preventDefault();
});

document.getElementById("bar").hidden = texts.length === 0;
changed();
