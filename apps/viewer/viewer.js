// Runs once when the page opens.
() => {
  // A server that was started anew does not know this page: load it again.  Jobs are found by the
  // address, so nothing is lost but what was not started yet.
  const server = window.gradio_config?.app_id;
  setInterval(async () => {
    const answer = await fetch("gradio_api/app_id").catch(() => null);
    document.body.classList.toggle("g3-away", !answer);
    if (!answer?.ok) return;
    const { app_id } = await answer.json();
    if (server !== undefined && app_id !== server) location.reload();
  }, 3000);

  // The map of a street: gestures become messages to the server, which alone changes the layout and
  // draws the map anew.  X runs along the street, Y to its right, in metres.
  const LEAST_M = 0.15;
  const views = new Map();
  let gesture = null;

  const map = () => document.querySelector("#scene-plan svg");
  const drawing = () => document.querySelector("#scene-draw input")?.checked;

  // The hidden button's event takes the oldest message along.
  window.geo3dMessages = [];

  function send(message) {
    window.geo3dMessages.push(JSON.stringify(message));
    document.getElementById("scene-asked").click();
  }

  function place(svg, event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  function shape(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  const thing = (svg, id) => svg.querySelector(`.g3-thing[data-id="${CSS.escape(id)}"]`);
  const middle = (part) => ({ x: Number(part.dataset.z), y: Number(part.dataset.x) });

  function setView(svg, box) {
    svg.setAttribute("viewBox", box.join(" "));
    views.set(svg.dataset.street, box);
    mark(svg);
  }

  // Outlines what is selected and gives it the handle that turns it.
  function mark(svg) {
    svg.querySelectorAll(".g3-handle, .g3-arm").forEach((part) => part.remove());
    svg.querySelectorAll(".g3-selected").forEach((part) => part.classList.remove("g3-selected"));
    const chosen = svg.dataset.selected && thing(svg, svg.dataset.selected);
    if (!chosen) return;
    chosen.classList.add("g3-selected");
    const at = middle(chosen);
    const metre = svg.getScreenCTM()?.a || 1;
    const size = chosen.getBBox();
    const reach = Math.max(size.width, size.height) / 2 + 16 / metre;
    const yaw = Number(chosen.dataset.yaw);
    const end = { x: at.x + reach * Math.cos(yaw), y: at.y + reach * Math.sin(yaw) };
    svg.append(
      shape("line", { class: "g3-arm", x1: at.x, y1: at.y, x2: end.x, y2: end.y }),
      shape("circle", { class: "g3-handle", cx: end.x, cy: end.y, r: 7 / metre }),
    );
  }

  function begin(event) {
    const svg = map();
    if (!svg || event.button !== 0 || !(event.target instanceof Element)) return;
    if (!svg.contains(event.target)) return;
    svg.focus({ preventScroll: true });
    const from = place(svg, event);
    const part = event.target.closest(".g3-thing");
    const id = part?.dataset.id ?? "";
    if (event.target.matches(".g3-handle")) {
      const turned = thing(svg, svg.dataset.selected);
      gesture = { kind: "rotate", from, id: svg.dataset.selected, part: turned };
    } else if (drawing()) {
      const box = shape("rect", { class: "g3-drawn", x: from.x, y: from.y, width: 0, height: 0 });
      svg.append(box);
      gesture = { kind: "draw", from, part: box };
    } else if (part) {
      gesture = { kind: "move", from, id, part };
      svg.dataset.selected = id;
      mark(svg);
    } else {
      gesture = { kind: "pan", from };
    }
    gesture.svg = svg;
    gesture.to = from;
    svg.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  function turn({ from, to, part }) {
    const at = middle(part);
    return Math.atan2(to.y - at.y, to.x - at.x) - Math.atan2(from.y - at.y, from.x - at.x);
  }

  function follow(event) {
    map()?.classList.toggle("g3-drawing", Boolean(drawing()));
    if (!gesture) return;
    const { svg, kind, from, part } = gesture;
    const to = place(svg, event);
    if (kind === "pan") {
      const box = svg.viewBox.baseVal;
      setView(svg, [box.x + from.x - to.x, box.y + from.y - to.y, box.width, box.height]);
      return;
    }
    gesture.to = to;
    if (kind === "move") {
      part.setAttribute("transform", `translate(${to.x - from.x} ${to.y - from.y})`);
      svg.querySelectorAll(".g3-handle, .g3-arm").forEach((old) => old.remove());
    } else if (kind === "rotate") {
      const at = middle(part);
      part.setAttribute("transform", `rotate(${(turn(gesture) * 180) / Math.PI} ${at.x} ${at.y})`);
    } else {
      part.setAttribute("x", Math.min(from.x, to.x));
      part.setAttribute("y", Math.min(from.y, to.y));
      part.setAttribute("width", Math.abs(to.x - from.x));
      part.setAttribute("height", Math.abs(to.y - from.y));
    }
  }

  function end() {
    if (!gesture) return;
    const { svg, kind, from, to, id, part } = gesture;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const far = Math.hypot(dx, dy) > LEAST_M;
    if (kind === "move") send(far ? { op: "move", id, dx: dy, dz: dx } : { op: "select", id });
    if (kind === "rotate" && far) send({ op: "rotate", id, yaw: turn(gesture) });
    if (kind === "draw") {
      part.remove();
      const [x, z] = [(from.y + to.y) / 2, (from.x + to.x) / 2];
      send({ op: "add", x, z, width: Math.abs(dy), length: Math.abs(dx) });
    }
    if (kind === "pan" && !far && svg.dataset.selected) {
      svg.dataset.selected = "";
      mark(svg);
      send({ op: "select", id: "" });
    }
    gesture = null;
  }

  function zoom(event) {
    const svg = event.target instanceof Element && event.target.closest("#scene-plan svg");
    if (!svg) return;
    event.preventDefault();
    const at = place(svg, event);
    const box = svg.viewBox.baseVal;
    const by = Math.exp(Math.sign(event.deltaY) * 0.15);
    const width = Math.min(Math.max(box.width * by, 4), 8000);
    const k = width / box.width;
    setView(svg, [at.x - (at.x - box.x) * k, at.y - (at.y - box.y) * k, width, box.height * k]);
  }

  function press(event) {
    const svg = map();
    if (!svg || document.activeElement !== svg) return;
    const steps = { ArrowLeft: [0, -0.5], ArrowRight: [0, 0.5], ArrowUp: [-0.5, 0], ArrowDown: [0.5, 0] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    let message = null;
    if (command && (key === "y" || (key === "z" && event.shiftKey))) message = { op: "redo" };
    else if (command && key === "z") message = { op: "undo" };
    else if (command) return;
    else if (key === "Delete" || key === "Backspace") message = { op: "remove" };
    else if (key === "d") message = { op: "duplicate" };
    else if (key === "r") message = { op: "rotate", yaw: ((event.shiftKey ? -1 : 1) * Math.PI) / 12 };
    else if (steps[key]) message = { op: "move", dx: steps[key][0], dz: steps[key][1] };
    if (!message) return;
    event.preventDefault();
    send(message);
  }

  // A map that was drawn anew is looked at as the one before.
  new MutationObserver(() => {
    const svg = map();
    if (!svg || svg.dataset.ready) return;
    svg.dataset.ready = "yes";
    const view = views.get(svg.dataset.street);
    if (view) svg.setAttribute("viewBox", view.join(" "));
    mark(svg);
    if (map.focused) svg.focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true });

  document.addEventListener("focusin", (event) => {
    map.focused = event.target === map();
  });
  document.addEventListener("pointerdown", begin);
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerup", end);
  document.addEventListener("pointercancel", end);
  document.addEventListener("wheel", zoom, { passive: false });
  document.addEventListener("keydown", press);
  document.addEventListener("dblclick", (event) => {
    const svg = map();
    if (svg?.contains(event.target)) setView(svg, svg.dataset.view.split(" ").map(Number));
  });

  // A button of the list of jobs: the hidden button's event takes the job's id along.
  document.addEventListener("click", (event) => {
    const id = event.target.closest?.("[data-cancel]")?.dataset.cancel;
    if (!id) return;
    window.geo3dCancel = id;
    document.getElementById("jobs-asked").click();
  });

  // The player of a drive: the slider chooses a frame, the button lets them run.
  let running = null;

  function frame(player, number) {
    player.querySelectorAll("img").forEach((image, i) => (image.hidden = i !== number));
    player.querySelector("input").value = number;
    const count = Number(player.querySelector("input").max) + 1;
    player.querySelector("output").textContent = `${number + 1} / ${count}`;
  }

  function stop(button) {
    clearInterval(running);
    running = null;
    button.textContent = "▶";
  }

  document.addEventListener("input", (event) => {
    const player = event.target.closest?.(".g3-player");
    if (player) frame(player, Number(event.target.value));
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".g3-player button");
    if (!button) return;
    if (running) return stop(button);
    const player = button.closest(".g3-player");
    const range = player.querySelector("input");
    button.textContent = "⏸";
    running = setInterval(() => {
      if (!player.isConnected) return stop(button);
      frame(player, (Number(range.value) + 1) % (Number(range.max) + 1));
    }, 120);
  });
}
