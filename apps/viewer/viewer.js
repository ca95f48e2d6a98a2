// Runs once when the page opens.
() => {
  // While "Link cameras" is on, what the pointer does on one pane is repeated on the other, so that
  // both shapes turn together.
  const PAIRS = [
    ["link-cameras", "pane-source", "pane-target"],
    ["generate-link", "generate-teacher", "generate-student"],
  ];

  function twinOf(canvas) {
    for (const [link, ...panes] of PAIRS) {
      const mine = panes.findIndex((id) => document.getElementById(id)?.contains(canvas));
      if (mine < 0) continue;
      const linked = document.querySelector(`#${link} input`)?.checked;
      return linked ? document.querySelector(`#${panes[1 - mine]} canvas`) : null;
    }
    return null;
  }

  function repeat(event) {
    // Our own copies are not trusted events: they end here.
    if (!event.isTrusted || !(event.target instanceof HTMLCanvasElement)) return;
    const twin = twinOf(event.target);
    if (!twin) return;
    const from = event.target.getBoundingClientRect();
    const to = twin.getBoundingClientRect();
    const copy = new event.constructor(event.type, {
      bubbles: true,
      cancelable: true,
      button: event.button,
      buttons: event.buttons,
      clientX: event.clientX - from.left + to.left,
      clientY: event.clientY - from.top + to.top,
      movementX: event.movementX,
      movementY: event.movementY,
      ctrlKey: event.ctrlKey,
      shiftKey: event.shiftKey,
      altKey: event.altKey,
      deltaMode: event.deltaMode,
      deltaX: event.deltaX,
      deltaY: event.deltaY,
      pointerId: event.pointerId,
      pointerType: event.pointerType,
      isPrimary: event.isPrimary,
    });
    // The pane under the pointer keeps the capture and the focus: losing the focus would end the drag.
    const kept = ["setPointerCapture", "releasePointerCapture", "focus"];
    for (const name of kept) twin[name] = () => {};
    twin.dispatchEvent(copy);
    for (const name of kept) delete twin[name];
  }

  for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "wheel"]) {
    document.addEventListener(kind, repeat, { capture: true, passive: true });
  }
}
