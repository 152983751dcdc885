"""Groups of runs as one HTML file that shows everything by itself: nothing is fetched, no network is needed.

Its scripts are our own, some thousand lines: a library of charts is megabytes that a browser would have to read before
the first line is drawn. Every name goes into the page as text and never as markup, and the page's own policy lets no script
run but these.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.compare.contents import collect
from experiments.compare.groups import Group
from experiments.compare.significance import Verdict
from files import write_atomically

WEB = Path(__file__).parent / "web"
# In this order: each uses those before it.
SCRIPTS = ("data", "plot", "runs", "tables", "curves", "coordinates", "bars", "recall", "images", "start")


def write_page(
    path: Path, groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None
) -> None:
    """Write the page of the groups, whole or not at all. Raise UserError where the disk refuses.

    `metric` is val/NAME, by which runs are compared; `price` is money per hour of a device, None for no costs.
    """
    write_atomically(path, make_page(collect(groups, metric, verdicts, price)).encode())


def make_page(contents: dict[str, Any]) -> str:
    """Return the HTML of a page that shows `contents`."""
    script = "\n".join(["'use strict';", *((WEB / f"{name}.js").read_text("utf-8") for name in SCRIPTS)])
    style = (WEB / "page.css").read_text("utf-8")
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; script-src {_name(script)}; style-src {_name(style)}",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": dump(contents),
    }
    page = (WEB / "page.html").read_text("utf-8")
    for name, text in parts.items():
        before, after = page.split(f"{{{{{name}}}}}")
        page = before + text + after
    return page


def dump(contents: Any) -> str:
    """Return JSON that is the text of a script element: nothing in it ends that element, or begins a comment."""
    text = json.dumps(_plain(contents), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Put null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(text: str) -> str:
    """Return what a policy calls a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
