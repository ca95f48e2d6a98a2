// The shapes of an offline page: what stands in the page itself, opened by `open` of panes.js.
for (const section of document.querySelectorAll(".shapes")) {
  const groups = JSON.parse(document.getElementById("groups").textContent);
  open(section, groups[Number(section.dataset.group)], (id) => document.getElementById(id).textContent);
}
