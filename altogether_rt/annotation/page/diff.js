// The words of one text against those of another: what was kept, removed and added.
"use strict";
window.wordDifference = (() => {
  const TOKEN = /[\p{L}\p{N}]+(?:[-'’.][\p{L}\p{N}]+)*|[^\s\p{L}\p{N}]/gu;

  const tokens = (text) => text.match(TOKEN) || [];
  const isWord = (token) => /[\p{L}\p{N}]/u.test(token);

  // Lengths of the longest common subsequences of all endings, row by row.
  function commonLengths(old, now) {
    const width = now.length + 1;
    const lengths = new Uint16Array((old.length + 1) * width);
    for (let i = old.length - 1; i >= 0; i--) {
      for (let j = now.length - 1; j >= 0; j--) {
        lengths[i * width + j] =
          old[i] === now[j]
            ? lengths[(i + 1) * width + j + 1] + 1
            : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
    return (i, j) => lengths[i * width + j];
  }

  // [{kind: "same" | "removed" | "added", words: [...]}, …]
  return function wordDifference(before, after) {
    const old = tokens(before);
    const now = tokens(after);
    const parts = [];
    const push = (kind, token) => {
      const last = parts.at(-1);
      if (last && last.kind === kind) last.words.push(token);
      else parts.push({ kind, words: [token] });
    };
    const common = commonLengths(old, now);
    let i = 0;
    let j = 0;
    while (i < old.length || j < now.length) {
      if (i < old.length && j < now.length && old[i] === now[j]) {
        push("same", old[i]);
        i++;
        j++;
      } else if (j >= now.length || (i < old.length && common(i + 1, j) >= common(i, j + 1))) {
        push("removed", old[i++]);
      } else {
        push("added", now[j++]);
      }
    }
    const count = (kind) =>
      parts
        .filter((part) => part.kind === kind)
        .reduce((sum, part) => sum + part.words.filter(isWord).length, 0);
    return { parts, removed: count("removed"), added: count("added"), kept: count("same") };
  };
})();
