// The words of one text against those of another: what was kept, removed and added.
"use strict";
window.wordDifference = (() => {
  const TOKEN = /[\p{L}\p{N}]+(?:[-'’.][\p{L}\p{N}]+)*|[^\s\p{L}\p{N}]/gu;

  // Each with whether white space precedes it.
  const tokens = (text) =>
    [...text.matchAll(TOKEN)].map((match) => ({
      text: match[0],
      gap: match.index > 0 && /\s/.test(text[match.index - 1]),
    }));
  const isWord = (token) => /[\p{L}\p{N}]/u.test(token.text);

  // Lengths of the longest common subsequences of all endings, row by row.
  function commonLengths(old, now) {
    const width = now.length + 1;
    const lengths = new Uint16Array((old.length + 1) * width);
    for (let i = old.length - 1; i >= 0; i--) {
      for (let j = now.length - 1; j >= 0; j--) {
        lengths[i * width + j] =
          old[i].text === now[j].text
            ? lengths[(i + 1) * width + j + 1] + 1
            : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
    return (i, j) => lengths[i * width + j];
  }

  // {parts: [{kind: "same" | "removed" | "added", text, gap}, …], kept, removed, added}: counts are
  // of words; a part's gap says whether white space precedes it.
  return function wordDifference(before, after) {
    const old = tokens(before);
    const now = tokens(after);
    const parts = [];
    const counts = { same: 0, removed: 0, added: 0 };
    const push = (kind, token) => {
      const last = parts.at(-1);
      counts[kind] += isWord(token);
      if (last && last.kind === kind) last.text += (token.gap ? " " : "") + token.text;
      else {
        // What replaces something stands apart from it.
        const replaces = last && last.kind !== "same" && kind !== "same";
        parts.push({ kind, text: token.text, gap: token.gap || Boolean(replaces) });
      }
    };
    const common = commonLengths(old, now);
    let i = 0;
    let j = 0;
    while (i < old.length || j < now.length) {
      if (i < old.length && j < now.length && old[i].text === now[j].text) {
        push("same", now[j]);
        i++;
        j++;
      } else if (j >= now.length || (i < old.length && common(i + 1, j) >= common(i, j + 1))) {
        push("removed", old[i++]);
      } else {
        push("added", now[j++]);
      }
    }
    return { parts, kept: counts.same, removed: counts.removed, added: counts.added };
  };
})();
