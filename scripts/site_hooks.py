"""What MkDocs does not do by itself for the site of docs/: pages from the root, and links out of the folder.

SECURITY.md and CHANGELOG.md become pages. A link to any other file of the repository leads below what
the environment's SOURCE_URL says (``https://host/team/project/blob/main``); without it, its text alone
is left.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files at the root, and the pages that stand for them."""

MADE = ("SECURITY.md", "CHANGELOG.md")

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are files at the root."""
    for name in MADE:
        text = (ROOT / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, PAGES[name], content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links that leave docs/ to the page that stands for the file, or to the source."""
    return _LINK.sub(lambda link: _led(link[1], link[2], page.file.src_uri), markdown)


def _led(text: str, target: str, page: str) -> str:
    path, anchor, place = target.partition("#")
    if ":" in path or not path:
        return f"[{text}]({target})"
    outside = page in (PAGES[name] for name in MADE)
    there = posixpath.normpath(posixpath.join("" if outside else "docs", posixpath.dirname(page), path))
    if there in PAGES:
        return f"[{text}]({PAGES[there]}{anchor}{place if PAGES[there] != 'index.md' else ''})".replace(
            "#)", ")"
        )
    if outside or there.startswith("docs/"):
        return f"[{text}]({target})"
    if not (ROOT / there).exists():
        raise FileNotFoundError(f"docs/{page}: the link to {target} leads nowhere")
    source = os.environ.get("SOURCE_URL")
    return f"[{text}]({source.rstrip('/')}/{there}{anchor}{place})" if source else text
