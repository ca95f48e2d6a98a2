"""What the tests of the viewer without a browser share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def on_a_page(make: Callable[[], Any]) -> Any:
    """Make components inside a page; gradio leaks an event loop where none is running."""

    async def build() -> Any:
        import gradio as gr

        with gr.Blocks(analytics_enabled=False):
            return make()

    return asyncio.run(build())
