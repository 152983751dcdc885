"""The page of a comparison, one HTML file that needs no network.

Its scripts are some thousand lines of this project, because a browser would have to parse megabytes of a chart library before
it draws the first line. Every name enters the page as text, never as markup, and the security policy of the page allows only
these scripts.
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
# In this order: a script uses those before it.
SCRIPTS = ("data", "plot", "runs", "tables", "curves", "coordinates", "bars", "recall", "images", "start")


def write_page(
    path: Path, groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None
) -> None:
    """Write the page of the groups, whole or not at all. Raise UserError if the file cannot be written.

    `metric` is val/NAME, which compares the runs. `price` is that of a device-hour, None for no costs.
    """
    write_atomically(path, make_page(collect(groups, metric, verdicts, price)).encode())


def make_page(contents: dict[str, Any]) -> str:
    """Return the HTML of a page with `contents`."""
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
    """Return JSON for a script element, in which nothing can end the element or begin a comment."""
    text = json.dumps(_plain(contents), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """Replace numbers that are not finite by None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(text: str) -> str:
    """Return the name of a script or a style in a security policy, its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
