// The page's other end in a packed file: answers stay in this browser until they are downloaded.
"use strict";
(() => {
  const data = JSON.parse(client.byId("data").textContent);
  const storeName = `altogether-rt/${data.id}`;
  const rows = read(); // every save and undo, as an answer file has them
  let downloaded = rows.length;

  function read() {
    try {
      return JSON.parse(localStorage.getItem(storeName) || "[]");
    } catch {
      return [];
    }
  }

  function append(row) {
    rows.push(row);
    try {
      localStorage.setItem(storeName, JSON.stringify(rows));
    } catch {
      // Kept in the page alone: leaving it before the download is warned of.
    }
  }

  function isKept() {
    try {
      return localStorage.getItem(storeName) === JSON.stringify(rows);
    } catch {
      return rows.length === 0;
    }
  }

  // Saves that were not undone, the last at the end: as the server counts them.
  function saves() {
    const left = [];
    for (const row of rows) {
      if (row.undo) left.pop();
      else left.push(row);
    }
    return left;
  }

  const indexOf = (row) =>
    data.tasks.findIndex((t) => t.file_name === row.file_name && t.image_hash === row.image_hash);

  function answerTo(index) {
    const last = rows.filter((row) => indexOf(row) === index).at(-1);
    return last && !last.withdrawn ? last : null;
  }

  function status(index) {
    const answer = answerTo(index);
    return !answer ? "" : answer.flags.length ? "flagged" : "answered";
  }

  function rowOf(index) {
    const task = data.tasks[index];
    return {
      file_name: task.file_name,
      image_hash: task.image_hash,
      round: data.state.round,
      from: task.from,
      started_from: task.started_from,
      annotator: data.state.annotator,
      time: new Date().toISOString(),
      guideline: data.state.guideline.stamp,
      via: "pack",
    };
  }

  async function save(index, said) {
    const text = said.text.replace(/\s+/g, " ").trim();
    const leftOut = said.flags.some((flag) => data.not_exported.includes(flag));
    if (!text && !leftOut) {
      throw new Error("The text is empty: write one, or flag the image as unusable.");
    }
    if (text.length > data.max_chars) {
      throw new Error(`The text is longer than ${data.max_chars} characters.`);
    }
    append({ ...rowOf(index), text, flags: said.flags, seconds: Math.round(said.seconds * 10) / 10 });
    return { status: status(index) };
  }

  async function undo() {
    const left = saves();
    const taken = left.pop();
    if (!taken) return { task: null };
    const index = indexOf(taken);
    const before = left.filter((row) => indexOf(row) === index).at(-1);
    append({
      ...(before || { ...rowOf(index), withdrawn: true }),
      time: new Date().toISOString(),
      undo: true,
    });
    return { task: index, status: status(index), taken: { text: taken.text, flags: taken.flags } };
  }

  function download() {
    const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
    const link = client.element("a", {
      href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })),
      download: `answers-${data.state.annotator}-round${data.state.round}.jsonl`,
    });
    link.click();
    downloaded = rows.length;
    client.byId("status").textContent = `Downloaded ${rows.length} rows: send the file back.`;
  }

  window.addEventListener("beforeunload", (event) => {
    if (rows.length > downloaded && !isKept()) event.preventDefault();
  });

  startPage({
    state: async () => ({ ...data.state, statuses: data.tasks.map((_, index) => status(index)) }),
    task: async (index) => {
      const answer = answerTo(index);
      const said = answer && { text: answer.text, flags: answer.flags };
      return { ...data.tasks[index], answer: said };
    },
    image: (index) => client.byId(`image-${index}`).textContent,
    whyMissing: async () => "The browser cannot show this image.",
    save,
    undo,
    extras: [["Alt+d", "download your answers", "Download answers", download]],
  });
})();
