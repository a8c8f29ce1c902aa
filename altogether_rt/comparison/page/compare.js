// Two captions of one image: a choice for each question, saved together, one pair after another.
"use strict";
(() => {
  const { byId, element, getJson, onKeys, postJson } = window.client;
  const CHOICES = ["left", "tie", "right"];

  let questions = []; // all of the study: {id, text, tie}
  let tasks = []; // in order: {id, done}
  let position = 0; // of the pair that is shown; tasks.length at the end
  let task = null; // what is shown: {id, left, right, alt, questions, choices}
  let choices = {};
  let busy = false;

  // Seconds since the pair appeared, without those when the page was hidden.
  const clock = {
    total: 0,
    since: null,
    restart() {
      this.total = 0;
      this.since = document.hidden ? null : performance.now();
    },
    pause() {
      if (this.since !== null) this.total += performance.now() - this.since;
      this.since = null;
    },
    resume() {
      if (this.since === null) this.since = performance.now();
    },
    seconds() {
      const running = this.since === null ? 0 : performance.now() - this.since;
      return (this.total + running) / 1000;
    },
  };
  document.addEventListener("visibilitychange", () =>
    document.hidden ? clock.pause() : clock.resume());

  function showError(error) {
    byId("error").textContent = error ? error.message : "";
    byId("error").hidden = !error;
  }

  // One action at a time: a second Enter while the first is being saved must not save twice.
  async function exclusively(action) {
    if (busy) return;
    setBusy(true);
    try {
      await action();
      showError(null);
    } catch (error) {
      showError(error);
    } finally {
      setBusy(false);
    }
  }

  function setBusy(value) {
    busy = value;
    byId("task").setAttribute("aria-busy", String(value));
  }

  async function begin() {
    const state = await getJson("state");
    questions = state.questions;
    tasks = state.tasks;
    const first = tasks.findIndex((one) => !one.done);
    await show(first < 0 ? tasks.length : first);
  }

  async function show(index) {
    const found = index < tasks.length ? await getJson(`task/${tasks[index].id}`) : null;
    position = index;
    task = found;
    choices = task ? { ...task.choices } : {};
    byId("task").hidden = !task;
    byId("finished").hidden = Boolean(task);
    showProgress();
    if (!task) {
      byId("finished-count").textContent = `You have judged ${tasks.length} pairs.`;
      byId("status").textContent = "All done.";
      return;
    }
    showImage();
    byId("left").textContent = task.left;
    byId("right").textContent = task.right;
    const alts = task.alt.map((text) => element("p", { dir: "auto" }, text));
    byId("alt").replaceChildren(...(alts.length ? alts : [element("p", { class: "none" }, "none")]));
    byId("questions").replaceChildren(...asked().map(questionElement));
    showChoices();
    window.scrollTo(0, 0);
    focusQuestion(asked()[0].id, { preventScroll: true }); // the captions are read first
    clock.restart();
    if (index + 1 < tasks.length) new Image().src = `image/${tasks[index + 1].id}`;
  }

  const asked = () => questions.filter((question) => task.questions.includes(question.id));

  function showProgress() {
    const done = tasks.filter((one) => one.done).length;
    const what = position < tasks.length ? `pair ${position + 1} of ${tasks.length}, ` : "";
    byId("count").textContent = `${what}${done} judged`;
    byId("progress").max = Math.max(1, tasks.length);
    byId("progress").value = done;
    byId("undo").disabled = position === 0;
    byId("skip").disabled = position >= tasks.length;
  }

  function showImage() {
    setZoom(false);
    const image = byId("image");
    byId("size").textContent = "";
    image.onload = () => {
      byId("size").textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels`;
    };
    image.onerror = () =>
      showError(new Error("The image cannot be shown: tell whoever runs the study, or press S."));
    image.src = `image/${task.id}`;
  }

  function questionElement(question) {
    const labels = { left: "Left", tie: question.tie, right: "Right" };
    const buttons = CHOICES.map((choice, index) => {
      const button = element(
        "button",
        { type: "button", id: `${question.id}:${choice}`, "aria-pressed": "false" },
        element("kbd", { "aria-hidden": "true" }, String(index + 1)), " ", labels[choice]);
      button.addEventListener("click", () => choose(question.id, choice));
      return button;
    });
    const id = `question:${question.id}`;
    const node = element(
      "div",
      { class: "question", role: "group", "aria-labelledby": id },
      element("p", { id }, question.text),
      element("div", { class: "choices" }, ...buttons));
    node.dataset.question = question.id;
    return node;
  }

  const currentQuestion = () => document.querySelector(".question.current")?.dataset.question;

  function markCurrent(id) {
    for (const node of document.querySelectorAll(".question")) {
      node.classList.toggle("current", node.dataset.question === id);
    }
  }

  function focusQuestion(id, options) {
    byId(`${id}:${choices[id] || "left"}`).focus(options);
    markCurrent(id);
  }

  function choose(id, choice) {
    choices[id] = choice;
    showChoices();
    const open = asked().find((question) => !choices[question.id]);
    if (open) focusQuestion(open.id);
    else byId("save").focus();
  }

  function showChoices() {
    for (const question of asked()) {
      for (const choice of CHOICES) {
        const pressed = String(choices[question.id] === choice);
        byId(`${question.id}:${choice}`).setAttribute("aria-pressed", pressed);
      }
    }
    const open = asked().filter((question) => !choices[question.id]).length;
    byId("open").textContent = open ? `${open} of ${asked().length} open` : "";
  }

  async function save() {
    const open = asked().find((question) => !choices[question.id]);
    if (open) {
      focusQuestion(open.id);
      throw new Error("Answer every question first; a tie is an answer.");
    }
    await send({ choices });
  }

  async function send(answer) {
    const seconds = Math.round(clock.seconds() * 1000) / 1000;
    await postJson("answer", { task: task.id, seconds, ...answer });
    tasks[position].done = true;
    byId("status").textContent = `Pair ${position + 1} saved.`;
    const next = tasks.findIndex((one, index) => index > position && !one.done);
    const before = tasks.findIndex((one) => !one.done);
    await show(next >= 0 ? next : before >= 0 ? before : tasks.length);
  }

  function setZoom(real) {
    byId("frame").classList.toggle("real", real);
    byId("zoom").setAttribute("aria-pressed", String(real));
    if (real) {
      byId("frame").setAttribute("tabindex", "0"); // scrolled by keys
      byId("frame").focus();
    } else {
      byId("frame").removeAttribute("tabindex");
    }
  }

  const toggleZoom = () => setZoom(!byId("frame").classList.contains("real"));
  const undo = () => exclusively(() => (position > 0 ? show(position - 1) : undefined));
  const skip = () => exclusively(() => (task ? send({ skipped: true }) : undefined));
  const toggleKeys = () => (byId("keys").open ? byId("keys").close() : byId("keys").showModal());

  byId("undo").addEventListener("click", undo);
  byId("skip").addEventListener("click", skip);
  byId("zoom").addEventListener("click", toggleZoom);
  byId("help").addEventListener("click", toggleKeys);
  byId("save").addEventListener("click", () => exclusively(save));
  byId("questions").addEventListener("focusin", (event) =>
    markCurrent(event.target.closest(".question").dataset.question));

  // Not while a pair is being saved: keys meant for the next one would change the last one.
  const onTask = (action) => () => {
    if (task && !busy && !byId("keys").open) action();
  };
  const digit = (choice) => onTask(() => choose(currentQuestion() || asked()[0].id, choice));

  function enter(event) {
    const button = event.target.closest("button");
    const isAnswer = !button || button.id === "save" || button.closest(".choices");
    if (isAnswer && !byId("keys").open) onTask(() => exclusively(save))();
    else button?.click();
  }

  const letters = {
    u: () => byId("keys").open || undo(),
    s: onTask(skip),
    z: onTask(toggleZoom),
  };
  for (const [key, action] of Object.entries(letters)) letters[key.toUpperCase()] = action;
  onKeys({
    1: digit("left"),
    2: digit("tie"),
    3: digit("right"),
    Enter: enter,
    "?": toggleKeys,
    ...letters,
  });
  exclusively(begin);
})();
