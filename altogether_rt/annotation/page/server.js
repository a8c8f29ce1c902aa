// The page's other end: the server that sent it.
"use strict";
window.startPage({
  state: () => client.getJson("state"),
  task: (index) => client.getJson(`task/${index}`),
  image: (index) => `image/${index}`,
  // It may have changed, or be gone: the server says so where it would send the bytes.
  whyMissing: (index) =>
    client.getJson(`image/${index}`).then(
      () => "The browser cannot show this image.",
      (error) => error.message,
    ),
  save: (index, said) => client.postJson("answer", { task: index, ...said }),
  undo: () => client.postJson("undo", {}),
});
