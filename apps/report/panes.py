"""The place on a page where a group of shapes is shown; panes.js fills it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from apps.report.shapes import Group, Model

HINT = (
    "Drag turns, right-drag or two fingers move, + and - zoom; after a click on a pane the wheel "
    "zooms and arrow keys turn, 0 resets."
)


def panes_html(group: Group, attributes: Mapping[str, str], count: int = 0) -> str:
    """Return the section of a group.

    Args:
        attributes: of the section.
        count: of panes; 0 for one per model, fewer let the user choose what each shows.
    """
    shown = group.models[: count or len(group.models)]
    told = "".join(f' {name}="{escape(value, quote=True)}"' for name, value in attributes.items())
    panes = "".join(
        f'<figure><canvas tabindex="0" role="img" aria-label="3D: {escape(model.title)}"></canvas>'
        f"<figcaption>{escape(model.title)} <span>{_size(model)}</span></figcaption></figure>"
        for model in shown
    )
    notes = "".join(f"<p class=dim>{escape(note)}</p>" for note in group.notes)
    return (
        f'<section class="shapes"{told}><div class="tools"></div><div class="panes">{panes}</div>'
        f'<p class="said dim" aria-live="polite">{HINT}</p>{notes}</section>'
    )


def _size(model: Model) -> str:
    if model.faces is not None:
        return f"{len(model.points):,} vertices, {len(model.faces):,} faces"
    return f"{len(model.points):,} {'splats' if model.splats is not None else 'points'}"
