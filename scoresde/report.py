"""Reports: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# what a module comes in, and the extra that has it
_PACKAGES = {
    "matplotlib": ("matplotlib", "report"),
    "PIL": ("pillow", "report"),
    "sklearn": ("scikit-learn", "report"),
    "pyarrow": ("pyarrow", "parquet"),
}

INK, ACCENT, MUTED = "#1f2430", "#2f6fde", "#8b93a5"

STYLE = f"""
:root {{ color-scheme: light; }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: {INK}; background: #fff; margin: 0; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 3rem 1.5rem 4rem; }}
h1 {{ font-size: 2rem; margin: 0 0 .4rem; letter-spacing: -.01em; }}
h2 {{ font-size: 1.2rem; margin: 2.6rem 0 .5rem; }}
p {{ max-width: 46rem; margin: .4rem 0 .9rem; }}
.lead {{ font-size: 1.1rem; color: #4a5162; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1.3rem; }}
figure {{ margin: .4rem 0; max-width: 100%; }}
figure img {{ display: block; width: 100%; height: auto; border-radius: 4px; }}
figure.pixels img {{ image-rendering: pixelated; }}
figcaption {{ font-size: .85rem; color: #5b6375; margin-top: .35rem; }}
.table {{ overflow-x: auto; margin: .6rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem 1.4rem .35rem 0; text-align: right; }}
th:last-child, td:last-child {{ padding-right: 0; }}
th:first-child, td:first-child {{ text-align: left; min-width: 9rem; }}
th {{ font-size: .85rem; color: #5b6375; font-weight: 600; border-bottom: 1px solid #cfd4de; }}
td {{ border-bottom: 1px solid #eceef3; }}
tr.best td {{ font-weight: 650; }}
footer {{ margin-top: 3rem; font-size: .85rem; color: {MUTED}; }}
@media (max-width: 40rem) {{
  main {{ padding: 2rem 1rem 3rem; }}
  table, th {{ font-size: .8rem; }}
  th, td {{ padding-right: .6rem; }}
}}
"""


class Report:
    """An HTML page that is built from top to bottom.

    Args:
        title: its heading.
        lead: a sentence below it.
    """

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def section(self, heading: str, text: str) -> None:
        """Begin a section."""
        self._parts += [f"<h2>{html.escape(heading)}</h2>", f"<p>{html.escape(text)}</p>"]

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None
    ) -> None:
        """Add a table, with one row in bold type if `best` names it."""
        cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        lines = [f"<tr>{cells}</tr>"]
        for i, row in enumerate(rows):
            mark = ' class="best"' if i == best else ""
            lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row))
        self._parts.append(f'<div class="table"><table>{"".join(lines)}</table></div>')

    def images(self, grids: Sequence[tuple[str, Tensor]], columns: int = 8, scale: int = 4) -> None:
        """Add grids of images (B, C, H, W), uint8, side by side, each with a caption."""
        figures = (_figure(png(x, columns, scale), caption, "pixels") for caption, x in grids)
        self._parts.append(f'<div class="row">{"".join(figures)}</div>')

    def plot(self, caption: str, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
        """Add a plot that `draw` makes on matplotlib axes, of a size in inches."""
        self._parts.append(_figure(_plot(draw, size), caption, "plot"))

    def write(self, path: Path, footer: str) -> Path:
        """Write the page, and return its path."""
        body = "\n".join(self._parts)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self._title)}</title><style>{STYLE}</style></head>\n"
            f"<body><main>{body}<footer>{html.escape(footer)}</footer></main></body></html>\n"
        )
        path.write_text(page, encoding="utf-8")
        return path


def require(*modules: str) -> None:
    """Refuse to begin what needs modules that are not installed.

    Raises:
        ImportError: naming all of them, and the extras that have them.
    """
    missing = [_PACKAGES[module] for module in modules if find_spec(module) is None]
    if missing:
        packages, extras = zip(*missing, strict=True)
        needed = ",".join(dict.fromkeys(extras))
        raise ImportError(f"{' and '.join(packages)} missing: pip install 'scoresde[{needed}]'")


def png(x: Tensor, columns: int = 8, scale: int = 4) -> bytes:
    """Return images (B, C, H, W), uint8 of 1 or 3 channels, in a grid, as a PNG file.

    Raises:
        ImportError: pillow is not installed.
        ValueError: another shape, or no images.
    """
    require("PIL")
    from PIL import Image

    if x.ndim != 4 or not len(x) or x.shape[1] not in (1, 3):
        raise ValueError(f"x: shape {tuple(x.shape)}; a grid shows images (B, 1 or 3, H, W)")
    _, channels, height, width = x.shape
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 255, np.uint8)
    for i, image in enumerate(x.cpu().permute(0, 2, 3, 1).numpy()):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def stretch(x: Tensor, levels: int | None) -> Tensor:
    """Return grey levels 0..levels-1 as uint8 over 0..255, for pictures."""
    top = 255 if levels is None else levels - 1
    return (x.float() * (255.0 / top)).round().clamp(0, 255).to(torch.uint8)


def _plot(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def _figure(data: bytes, caption: str, kind: str) -> str:
    encoded = base64.b64encode(data).decode()
    width = int.from_bytes(data[16:20], "big") // (1 if kind == "pixels" else 2)
    return (
        f'<figure class="{kind}" style="width: {width}px"><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{encoded}"><figcaption>{html.escape(caption)}</figcaption>'
        f"</figure>"
    )
