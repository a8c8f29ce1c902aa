// The annotation page. It asks a store for everything: the server's, or that of a packed file.
"use strict";
window.startPage = (store) => {
  const { byId, element, onKeys } = client;
  const ZOOMS = [1, 2, 4, 8];

  let state = null; // annotator, round, guideline, flags, statuses
  let index = 0; // of the image that is shown
  let task = null;
  let zoom = 0; // 0: fitted into the frame
  let taken = null; // what the last undo took back: {index, text, flags}
  let busy = false;
  const drafts = new Map(); // texts not saved, by image
  const seconds = new Map(); // looked at and not yet saved, by image
  let since = performance.now();

  // ------------------------------------------------------------------ time

  function countTime() {
    const now = performance.now();
    if (task && document.visibilityState === "visible") {
      seconds.set(index, (seconds.get(index) || 0) + (now - since) / 1000);
    }
    since = now;
  }

  // ------------------------------------------------------------------ what is shown

  const flagBoxes = () => [...document.querySelectorAll("#flags input")];
  const chosenFlags = () => flagBoxes().filter((box) => box.checked).map((box) => box.value);
  const plain = (text) => text.replace(/\s+/g, " ").trim();

  function current() {
    return { text: byId("text").value, flags: chosenFlags() };
  }

  function saved() {
    return task.answer || { text: task.text, flags: [] };
  }

  function isChanged() {
    const now = current();
    const was = saved();
    return plain(now.text) !== plain(was.text) || now.flags.join() !== was.flags.join();
  }

  function say(message, isError = false) {
    byId("status").textContent = isError ? "" : message;
    byId("error").textContent = isError ? message : "";
  }

  function showProgress() {
    const done = state.statuses.filter((status) => status).length;
    const total = state.statuses.length;
    byId("bar").max = total || 1;
    byId("bar").value = done;
    byId("count").textContent = `${done} of ${total} answered`;
    byId("total").textContent = total;
    byId("position").max = total;
    document.title = `${done}/${total} · Round ${state.round}`;
  }

  function showMark() {
    const mark = byId("mark");
    const unsaved = isChanged();
    mark.hidden = !unsaved && !task.answer;
    mark.textContent = unsaved ? "not saved" : task.answer ? "saved" : "";
    mark.classList.toggle("unsaved", unsaved);
  }

  function showDifference() {
    const { text, flags } = current();
    const found = wordDifference(task.text, text);
    const line = byId("difference");
    const tags = { same: "span", removed: "del", added: "ins" };
    const nodes = found.parts.flatMap((part) => [
      part.gap ? " " : "",
      element(tags[part.kind], {}, part.text),
    ]);
    line.replaceChildren(...(nodes.length ? nodes : ["nothing yet"]));
    line.classList.toggle("none", !nodes.length);
    const same = !found.removed && !found.added;
    byId("counts").textContent = same
      ? "none"
      : `${found.kept} words kept, ${found.removed} removed, ${found.added} added`;
    const lower = text.toLowerCase();
    const lost = task.names.filter((name) => !lower.includes(name.toLowerCase()));
    byId("names").hidden = !lost.length;
    byId("names").textContent = lost.length
      ? `In the alt-text and not in your text: ${lost.join(", ")}`
      : "";
    const label = same && !flags.length && text ? "Save unchanged " : "Save ";
    byId("save").firstChild.textContent = label;
    showMark();
  }

  function showTexts({ text, flags }) {
    byId("text").value = text;
    for (const box of flagBoxes()) box.checked = flags.includes(box.value);
    showDifference();
  }

  function showAlts() {
    const texts = task.alts.map((alt) => element("p", { dir: "auto" }, alt));
    const none = element("p", { class: "none" }, "none");
    byId("alts").replaceChildren(...(texts.length ? texts : [none]));
    byId("alts-label").textContent = texts.length > 1 ? "Alt-texts" : "Alt-text";
    const origins = {
      "alt-text": "from the alt-text",
      caption: "from a captioner",
      round: `from round ${state.round - 1}`,
    };
    byId("origin").textContent = origins[task.started_from] || "";
  }

  function showImage() {
    const image = byId("image");
    byId("file").textContent = task.file_name;
    byId("size").textContent = `${task.width} × ${task.height} px`;
    byId("missing").hidden = true;
    image.hidden = false;
    image.src = store.image(index);
    setZoom(0);
  }

  async function showMissing() {
    byId("image").hidden = true;
    byId("missing").textContent = await store.whyMissing(index);
    byId("missing").hidden = false;
  }

  function setZoom(value) {
    zoom = value;
    const image = byId("image");
    image.classList.toggle("fit", !zoom);
    image.classList.toggle("small", zoom > 1);
    image.style.width = zoom ? `${task.width * zoom}px` : "";
    image.style.height = zoom ? `${task.height * zoom}px` : "";
    byId("zoom").textContent = zoom ? `${100 * zoom} %` : "Fit";
  }

  function stepZoom(direction) {
    const steps = [0, ...ZOOMS];
    const next = steps.indexOf(zoom) + direction;
    if (next >= 0 && next < steps.length) setZoom(steps[next]);
  }

  // Enlarged, so that the point under the pointer stays in sight.
  function zoomAt(event) {
    const image = byId("image");
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / task.width, box.height / task.height);
    const x = 0.5 + (event.clientX - box.left - box.width / 2) / (scale * task.width);
    const y = 0.5 + (event.clientY - box.top - box.height / 2) / (scale * task.height);
    setZoom(zoom ? 0 : 1);
    const frame = byId("frame");
    frame.scrollTo(x * image.width - frame.clientWidth / 2, y * image.height - frame.clientHeight / 2);
  }

  // ------------------------------------------------------------------ going from image to image

  function keepDraft() {
    if (!task) return;
    if (isChanged()) drafts.set(index, current());
    else drafts.delete(index);
  }

  async function go(to) {
    if (!(to in state.statuses)) return;
    countTime();
    keepDraft();
    let found;
    try {
      found = await store.task(to);
    } catch (error) {
      say(error.message, true);
      return;
    }
    task = found;
    index = to;
    since = performance.now();
    byId("position").value = to + 1;
    byId("previous").disabled = to === 0;
    byId("next").disabled = to === state.statuses.length - 1;
    showImage();
    showAlts();
    showTexts(drafts.get(to) || saved());
    byId("text").focus();
    byId("text").setSelectionRange(byId("text").value.length, byId("text").value.length);
  }

  // The next image without an answer, from here on and then from the start; -1 if all have one.
  function nextOpen() {
    const { statuses } = state;
    for (let step = 1; step <= statuses.length; step++) {
      const candidate = (index + step) % statuses.length;
      if (!statuses[candidate]) return candidate;
    }
    return -1;
  }

  async function goToOpen() {
    const open = nextOpen();
    if (open >= 0) await go(open);
    else say("Every image has an answer.");
  }

  // ------------------------------------------------------------------ actions

  async function once(action) {
    if (busy || !task) return;
    busy = true;
    try {
      await action();
    } catch (error) {
      say(error.message, true);
    } finally {
      busy = false;
    }
  }

  async function save() {
    countTime();
    const said = { ...current(), from: task.from, seconds: seconds.get(index) || 0 };
    const { status } = await store.save(index, said);
    state.statuses[index] = status;
    task.answer = { text: plain(said.text), flags: said.flags };
    drafts.delete(index);
    seconds.delete(index);
    taken = null;
    byId("redo").hidden = true;
    showProgress();
    showMark();
    const open = nextOpen();
    const name = task.file_name;
    if (open >= 0) await go(open);
    say(open >= 0 ? `Saved ${name}.` : `Saved ${name}. Every image has an answer.`);
  }

  async function undo() {
    const found = await store.undo();
    if (found.task === null) {
      say("There is nothing to take back.");
      return;
    }
    state.statuses[found.task] = found.status;
    taken = { index: found.task, ...found.taken };
    showProgress();
    keepDraft();
    drafts.delete(found.task);
    task = null;
    await go(found.task);
    byId("redo").hidden = false;
    say(`Took back the answer to ${task.file_name}.`);
  }

  async function redo() {
    if (!taken) return;
    if (taken.index !== index) await go(taken.index);
    showTexts(taken);
    say("Your text is back, and not saved yet.");
  }

  function reset() {
    showTexts({ text: task.text, flags: [] });
    byId("text").focus();
  }

  function toggleFlag(number) {
    const box = flagBoxes()[number];
    if (!box) return;
    box.checked = !box.checked;
    showDifference();
  }

  function toggleHelp() {
    const help = byId("help");
    if (help.open) help.close();
    else help.showModal();
  }

  // ------------------------------------------------------------------ setting up

  const KEYS = [
    // A key that is held down must not save, or take back, one image after another.
    ["Ctrl+Enter", "save, and go to the next open image", (event) => event.repeat || once(save)],
    ["PageDown", "next image", () => once(() => go(index + 1))],
    ["PageUp", "previous image", () => once(() => go(index - 1))],
    ["Alt+o", "next image without an answer", () => once(goToOpen)],
    ["Alt+u", "undo the last save", (event) => event.repeat || once(undo)],
    ["Alt+y", "put the text that was undone back into the box", () => once(redo)],
    ["Alt+r", "start again from the text as it was", () => task && reset()],
    ["Alt+1", "flag: cannot verify", () => toggleFlag(0)],
    ["Alt+2", "flag: private", () => toggleFlag(1)],
    ["Alt+3", "flag: unusable", () => toggleFlag(2)],
    ["Alt+z", "image at its real size, or fitted", () => task && setZoom(zoom ? 0 : 1)],
    ["Alt+=", "image larger", () => task && stepZoom(1)],
    ["Alt+-", "image smaller", () => task && stepZoom(-1)],
    ["Alt+t", "to the text", () => byId("text").focus()],
    ["Alt+p", "to the image; arrow keys then move it", () => byId("frame").focus()],
    ["Alt+g", "guideline: show or hide", () => byId("guideline").toggleAttribute("open")],
    ...(store.extras || []).map(([name, meaning, , action]) => [name, meaning, action]),
    ["Alt+k", "this list", toggleHelp],
  ];

  function keyLabel(name) {
    const parts = name.split("+").map((part) => part[0].toUpperCase() + part.slice(1));
    return element("kbd", {}, parts.join(" "));
  }

  function buildPage() {
    byId("title").textContent = `Round ${state.round} · ${state.annotator}`;
    byId("guideline-title").textContent = state.guideline.title;
    byId("version").textContent = state.guideline.stamp;
    byId("rules").replaceChildren(
      ...state.guideline.rules.map((rule) =>
        element("li", {}, element("strong", {}, rule.name), rule.text),
      ),
    );
    byId("flags").replaceChildren(
      ...Object.entries(state.flags).map(([flag, meaning], number) =>
        element(
          "label",
          {},
          element("input", { type: "checkbox", value: flag }),
          element(
            "span",
            {},
            flag.replace("_", " "),
            element("span", { class: "soft" }, ` – ${meaning}`),
          ),
          keyLabel(`Alt+${number + 1}`),
        ),
      ),
    );
    for (const [name, , label, action] of store.extras || []) {
      const button = element("button", { type: "button" }, `${label} `, keyLabel(name));
      button.addEventListener("click", action);
      byId("extra").append(button);
    }
    byId("key-list").replaceChildren(
      ...KEYS.flatMap(([name, meaning]) => [
        element("dt", {}, keyLabel(name)),
        element("dd", {}, meaning),
      ]),
    );
  }

  function listen() {
    const clicks = {
      previous: () => once(() => go(index - 1)),
      next: () => once(() => go(index + 1)),
      open: () => once(goToOpen),
      keys: toggleHelp,
      smaller: () => stepZoom(-1),
      larger: () => stepZoom(1),
      fit: () => setZoom(zoom ? 0 : 1),
      reset,
      save: () => once(save),
      undo: () => once(undo),
      redo: () => once(redo),
    };
    for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
    const help = byId("help"); // while it is open, no key acts behind it
    const unlessHelp = (action) => (event) =>
      help.open && action !== toggleHelp ? null : action(event);
    onKeys(Object.fromEntries(KEYS.map(([name, , action]) => [name, unlessHelp(action)])));
    byId("text").addEventListener("input", showDifference);
    byId("flags").addEventListener("change", showDifference);
    byId("image").addEventListener("click", zoomAt);
    byId("image").addEventListener("error", showMissing);
    byId("position").addEventListener("change", (event) =>
      once(() => go(Number(event.target.value) - 1)),
    );
    document.addEventListener("visibilitychange", countTime);
    window.addEventListener("beforeunload", (event) => {
      keepDraft();
      if (drafts.size) event.preventDefault();
    });
  }

  async function start() {
    try {
      state = await store.state();
    } catch (error) {
      say(error.message, true);
      return;
    }
    buildPage();
    showProgress();
    index = -1;
    const open = nextOpen();
    index = 0;
    listen();
    await go(Math.max(open, 0));
    say(open < 0 ? "Every image has an answer." : "");
    document.body.dataset.ready = "true";
  }

  start();
};
