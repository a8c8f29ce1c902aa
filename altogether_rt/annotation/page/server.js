// The page's other end: the server that sent it.
"use strict";
window.startPage({
  state: () => client.getJson("state"),
  task: (index) => client.getJson(`task/${index}`),
  picture: (index) => `picture/${index}`,
  save: (index, said) => client.postJson("answer", { task: index, ...said }),
  undo: () => client.postJson("undo", {}),
});
