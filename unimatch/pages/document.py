"""A page as one HTML file: its figures as JSON, and what shows them."""

from __future__ import annotations

import base64
import json
from html import escape
from importlib import resources
from typing import Any

# No address is allowed: neither a picture nor a script comes from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SHARED = "unimatch.pages"


def document(title: str, package: str, name: str, data: Any) -> str:
    """HTML of the page that NAME.html, NAME.css and NAME.js in a package describe; the first is its body, and
    the script finds `data` (whatever JSON can say) under that name.
    """
    # "</" would end the script that holds it.
    figures = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>
{_text(SHARED, "shared.css")}{_text(package, f"{name}.css")}</style>
</head>
<body>
{_text(package, f"{name}.html")}<noscript>This page shows its figures with a script: allow it.</noscript>
<script type="application/json" id="data">{figures}</script>
<script>
"use strict";
{_text(SHARED, "shared.js")}{_text(package, f"{name}.js")}</script>
</body>
</html>
"""


def embedded(data: bytes, kind: str = "jpeg") -> str:
    """An image file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
