// Runs once when the page opens: painting on a mask with pointer, fingers or keys.
//
// Gestures become messages to the server, which alone changes the mask and draws it anew.  Places
// are in pixels of the image, x to the right, y down; messages hold [row, column].
() => {
  const MAX_POINTS = 2000;
  const views = new Map();
  const pointers = new Map();
  let painting = null;
  let pinch = null;
  let brush = null;
  let shown = "";

  const canvas = () => document.querySelector("#segment-canvas svg");
  const tools = () => document.querySelector("#segment-tools .g3-strokes");
  const tool = () => tools()?.querySelector("input[type=radio]:checked")?.value ?? "join";
  const range = () => tools()?.querySelector("input[type=range]");
  const width = () => Number(range()?.value ?? 5);

  // The hidden button's event takes the oldest message along.
  window.geo3dStrokes = [];

  function send(message) {
    window.geo3dStrokes.push(JSON.stringify(message));
    document.getElementById("segment-stroke").click();
  }

  function shape(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function place(svg, event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  const whole = (svg) => [0, 0, Number(svg.dataset.width), Number(svg.dataset.height)];
  const viewed = (svg) => views.get(svg.dataset.mask) ?? whole(svg);

  function setView(svg, box) {
    const [, , w, h] = whole(svg);
    const size = Math.min(Math.max(box[2], 16), 2 * w) / box[2];
    const [wide, high] = [box[2] * size, box[3] * size];
    const x = Math.min(Math.max(box[0], -wide / 2), w - wide / 2);
    const y = Math.min(Math.max(box[1], -high / 2), h - high / 2);
    svg.setAttribute("viewBox", [x, y, wide, high].join(" "));
    views.set(svg.dataset.mask, [x, y, wide, high]);
    showBrush(svg);
  }

  function zoomAt(svg, at, by) {
    const [x, y, w, h] = viewed(svg);
    setView(svg, [at.x - (at.x - x) * by, at.y - (at.y - y) * by, w * by, h * by]);
  }

  function zoomMiddle(svg, by) {
    const [x, y, w, h] = viewed(svg);
    zoomAt(svg, brush ?? { x: x + w / 2, y: y + h / 2 }, by);
  }

  // A stroke as it is being painted.
  function start(svg, at) {
    const line = shape("polyline", { class: `g3-stroke g3-${tool()}`, "stroke-width": width() });
    svg.append(line);
    painting = { svg, line, join: tool() === "join", width: width(), points: [] };
    extend(at);
  }

  function extend(at) {
    const { points, line } = painting;
    const last = points.at(-1);
    if (last && Math.hypot(at.x - last[1], at.y - last[0]) < 0.5) return;
    if (points.length >= MAX_POINTS) points.pop();
    points.push([Math.round(at.y * 100) / 100, Math.round(at.x * 100) / 100]);
    // One point alone would not be drawn.
    const drawn = points.length > 1 ? points : [points[0], points[0]];
    line.setAttribute("points", drawn.map(([row, column]) => `${column},${row}`).join(" "));
  }

  function finish() {
    if (!painting) return;
    const { join, width, points } = painting;
    painting = null;
    send({ op: "stroke", join, width, points });
  }

  function drop() {
    painting?.line.remove();
    painting = null;
  }

  // Where the brush is, for those who paint with keys, and how large it is.
  function showBrush(svg) {
    svg.querySelectorAll(".g3-brush").forEach((part) => part.remove());
    if (!brush) return;
    svg.append(
      shape("circle", { class: "g3-brush", cx: brush.x, cy: brush.y, r: Math.max(width() / 2, 0.5) }),
    );
  }

  function down(event) {
    const svg = canvas();
    if (!svg || !(event.target instanceof Element) || !svg.contains(event.target)) return;
    svg.focus({ preventScroll: true });
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      // A second finger: the first one did not mean to paint.
      drop();
      pinch = null;
      return;
    }
    if (pointers.size > 2) return;
    if (tool() !== "move" && event.button === 0) start(svg, place(svg, event));
  }

  function move(event) {
    const svg = canvas();
    if (!svg) return;
    if (!pointers.has(event.pointerId)) {
      const over = event.target instanceof Element && svg.contains(event.target);
      if (over && event.pointerType === "mouse") {
        brush = tool() === "move" ? null : place(svg, event);
        showBrush(svg);
      }
      return;
    }
    const before = pointers.get(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const now = {
        clientX: (a.clientX + b.clientX) / 2,
        clientY: (a.clientY + b.clientY) / 2,
        apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY),
      };
      if (pinch) {
        pan(svg, pinch, now);
        zoomAt(svg, place(svg, now), pinch.apart / Math.max(now.apart, 1));
      }
      pinch = now;
    } else if (painting) {
      // Fast hands: the places between two frames count as well.
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) extend(place(svg, each));
    } else if (pointers.size === 1) {
      pan(svg, before, event);
    }
  }

  function pan(svg, before, now) {
    const [from, to] = [place(svg, before), place(svg, now)];
    const [x, y, w, h] = viewed(svg);
    setView(svg, [x + from.x - to.x, y + from.y - to.y, w, h]);
  }

  function up(event) {
    if (!pointers.delete(event.pointerId)) return;
    pinch = null;
    if (event.type === "pointercancel") drop();
    else if (pointers.size === 0) finish();
  }

  function choose(value) {
    const radio = tools()?.querySelector(`input[value=${value}]`);
    if (radio) radio.checked = true;
  }

  function widen(by) {
    range().value = width() + by;
    tell();
  }

  function tell() {
    const output = tools()?.querySelector("output");
    if (output) output.textContent = `${width()} px`;
    const svg = canvas();
    if (svg) showBrush(svg);
  }

  function step(svg, [dx, dy], far) {
    const [x, y, w, h] = viewed(svg);
    const [, , wide, high] = whole(svg);
    const from = brush ?? { x: Math.floor(x + w / 2) + 0.5, y: Math.floor(y + h / 2) + 0.5 };
    const by = far ? 10 : 1;
    brush = {
      x: Math.min(Math.max(from.x + dx * by, 0.5), wide - 0.5),
      y: Math.min(Math.max(from.y + dy * by, 0.5), high - 0.5),
    };
    if (painting) extend(brush);
    const outside = brush.x < x || brush.y < y || brush.x > x + w || brush.y > y + h;
    if (outside) setView(svg, [brush.x - w / 2, brush.y - h / 2, w, h]);
    showBrush(svg);
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function press(event) {
    const svg = canvas();
    if (!svg || document.activeElement !== svg || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    if (command && (key === "y" || (key === "z" && event.shiftKey))) send({ op: "redo" });
    else if (command && key === "z") send({ op: "undo" });
    else if (command) return;
    else if (ARROWS[key]) step(svg, ARROWS[key], event.shiftKey);
    else if (key === " " || key === "Enter") {
      if (painting) finish();
      else if (tool() !== "move") {
        step(svg, [0, 0], false);
        start(svg, brush);
      }
    } else if (key === "Escape" && painting) drop();
    else if (key === "j") choose("join");
    else if (key === "c") choose("cut");
    else if (key === "m") choose("move");
    else if (key === "[") widen(-1);
    else if (key === "]") widen(1);
    else if (key === "+" || key === "=") zoomMiddle(svg, 0.8);
    else if (key === "-") zoomMiddle(svg, 1.25);
    else if (key === "0") setView(svg, whole(svg));
    else return;
    event.preventDefault();
  }

  function click(event) {
    const svg = canvas();
    const asked = event.target.closest?.("#segment-tools button")?.value;
    if (!svg || !asked) return;
    if (asked === "in") zoomMiddle(svg, 0.8);
    else if (asked === "out") zoomMiddle(svg, 1.25);
    else if (asked === "all") setView(svg, whole(svg));
    else send({ op: asked });
  }

  document.addEventListener("pointerdown", down);
  document.addEventListener("pointermove", move);
  document.addEventListener("pointerup", up);
  document.addEventListener("pointercancel", up);
  document.addEventListener("keydown", press);
  document.addEventListener("click", click);
  document.addEventListener("input", (event) => event.target === range() && tell());
  document.addEventListener(
    "wheel",
    (event) => {
      const svg = canvas();
      if (!svg || !(event.target instanceof Element) || !svg.contains(event.target)) return;
      event.preventDefault();
      zoomAt(svg, place(svg, event), Math.exp(Math.sign(event.deltaY) * 0.15));
    },
    { passive: false },
  );
  document.addEventListener("focusin", (event) => {
    canvas.focused = event.target === canvas();
  });

  // A mask that was drawn anew is looked at as the one before; what is being painted goes on.
  new MutationObserver(() => {
    const svg = canvas();
    if (!svg || svg.dataset.ready) return;
    svg.dataset.ready = "yes";
    if (views.has(svg.dataset.mask)) svg.setAttribute("viewBox", viewed(svg).join(" "));
    if (shown !== svg.dataset.mask) brush = null;
    shown = svg.dataset.mask;
    if (painting) {
      painting.svg = svg;
      svg.append(painting.line);
    }
    showBrush(svg);
    if (canvas.focused) svg.focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true });
}
