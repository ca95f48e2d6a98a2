// Runs once when the page opens: while "Link cameras" is on, what the pointer does on one pane is
// repeated on the other, so that both shapes turn together.
() => {
  const PANES = ["pane-source", "pane-target"];
  const linked = () => document.querySelector("#link-cameras input")?.checked;

  function twinOf(canvas) {
    const mine = PANES.findIndex((id) => document.getElementById(id)?.contains(canvas));
    return mine < 0 ? null : document.querySelector(`#${PANES[1 - mine]} canvas`);
  }

  function repeat(event) {
    // Our own copies are not trusted events: they end here.
    if (!event.isTrusted || !(event.target instanceof HTMLCanvasElement) || !linked()) return;
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
