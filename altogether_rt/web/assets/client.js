// What all pages share. A classic script: it is inlined as it stands into pages opened from disk.
"use strict";
window.client = (() => {
  // Every address is relative to the page's own, which holds the session's token.
  async function request(name, options) {
    let response;
    try {
      response = await fetch(name, options);
    } catch {
      throw new Error("The server does not answer: is it still running in the terminal?");
    }
    const value = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(value.error || `The server answered ${response.status}.`);
    return value;
  }

  const getJson = (name) => request(name);
  const postJson = (name, value) =>
    request(name, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(value),
    });

  const byId = (id) => document.getElementById(id);

  // element("p", {class: "soft", hidden: true}, "text", child, …)
  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // "Ctrl+Enter", "Alt+ArrowLeft", "j": the combination of a keydown event. Command counts as Ctrl.
  function keyName(event) {
    const parts = [];
    if (event.ctrlKey || event.metaKey) parts.push("Ctrl");
    if (event.altKey) parts.push("Alt");
    if (event.shiftKey && event.key.length > 1) parts.push("Shift");
    // With Alt, some layouts give another character: the physical key decides.
    const code = /^(?:Key|Digit)(.)$/.exec(event.code);
    const physical = code ? code[1].toLowerCase() : { Minus: "-", Equal: "=" }[event.code];
    parts.push((event.altKey && physical) || event.key);
    return parts.join("+");
  }

  // Calls the action of a key combination, and keeps the browser's own from happening.
  function onKeys(actions) {
    document.addEventListener("keydown", (event) => {
      const action = event.isComposing ? null : actions[keyName(event)];
      if (!action) return;
      event.preventDefault();
      action(event);
    });
  }

  return { byId, element, getJson, keyName, onKeys, postJson };
})();
