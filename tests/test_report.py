"""Pictures hold the pixels, and a report is one file."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde import config
from scoresde.report import STYLE, Report, png, stretch


def test_pixels_are_where_they_should_be():
    x = torch.arange(5 * 2 * 3, dtype=torch.uint8).reshape(5, 1, 2, 3)
    picture = np.asarray(Image.open(io.BytesIO(png(x, columns=2, scale=2))))
    assert picture.shape == (2 * (3 * 3 + 1), 2 * (2 * 4 + 1))
    for i in range(5):
        top, left = 2 * ((i // 2) * 3 + 1), 2 * ((i % 2) * 4 + 1)
        image = picture[top : top + 4 : 2, left : left + 6 : 2]
        np.testing.assert_array_equal(image, x[i, 0].numpy())
    assert (picture[:2] == 255).all()


def test_grey_levels_stretch_over_the_range():
    x = torch.tensor([0, 8, 16], dtype=torch.uint8)
    assert stretch(x, 17).tolist() == [0, 128, 255]
    assert stretch(x, 256).tolist() == [0, 8, 16]


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3, 2, 2, 2), (3, 4)])
def test_what_is_no_grid_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="a grid shows images"):
        png(torch.zeros(shape, dtype=torch.uint8))


def test_a_report_is_one_file_and_escapes_its_text(tmp_path):
    report = Report("a < b", "lead & more")
    report.section("Section", "<script>")
    report.table(["head"], [["<td>"], ["best"]], best=1)
    report.images([("grid", torch.zeros(1, 1, 2, 2, dtype=torch.uint8))])
    report.plot("plot", lambda axes: axes.plot([0, 1]), (2.0, 1.0))
    page = report.write(tmp_path / "report.html", "footer").read_text()
    assert "a &lt; b" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


def test_nothing_of_a_report_is_wider_than_a_narrow_window():
    """Pictures give way, and a table that cannot scrolls."""
    report = Report("title", "lead")
    report.images([("grid", torch.zeros(12, 1, 8, 8, dtype=torch.uint8))], columns=12, scale=5)
    report.table(["head"], [["cell"]])
    (figure,) = re.findall("<figure.*?<figcaption>", "".join(report._parts))
    assert figure.startswith('<figure class="pixels" style="width: 545px"><img alt="grid" src=')
    assert "figure { margin: .4rem 0; max-width: 100%; }" in STYLE
    assert '<div class="table"><table>' in "".join(report._parts)
    assert ".table { overflow-x: auto;" in STYLE


def tiny():
    settings = config.defaults()
    settings.net = "MLP(hidden=16, depth=1)"
    settings.train.steps, settings.optim.warmup = 4, 2
    settings.likelihood.steps = 6
    return settings


@pytest.mark.slow
def test_the_demo_keeps_its_figures(tmp_path):
    """The figures that the demo is for, at its own settings."""
    from scoresde import demo
    from scoresde.metrics import ConfidentShare
    from scoresde.run import train_run

    run = train_run(config.defaults(), tmp_path)
    classifier = ConfidentShare(run.data.train, run.data.train_labels)
    real = classifier(run.data.test)
    for way in demo.WAYS:
        assert abs(demo._draw(run, classifier, *way).share - real) < 0.05
    bits = demo._measure(run)
    best = min(m.bits_per_dim for m in bits.mixtures)
    assert float(bits.digits.mean()) + 3 * bits.stderr < best
    assert float(bits.shuffled.mean()) > 2 * float(bits.digits.mean())


def test_the_demo_writes_its_report(tmp_path):
    from scoresde.demo import demo

    page = demo(tiny(), tmp_path).read_text()
    for text in ("Recognised", "Gaussian mixture, 10 components", "Adams predictor-corrector"):
        assert text in page
    assert page.count("data:image/png;base64,") == 7
    assert re.search(r"in all, (1 thread|\d+ threads)\.", page)
    # bold: the solver whose share is closest to that of the real images
    real, rest = re.search(r"held-out images have ([\d.]+); (.*)From noise", page, re.S).groups()
    rows = [row.split("<td>") for row in rest.split("<tr")[2:]]
    distances = [abs(float(row[-1].partition("<")[0]) - float(real)) for row in rows]
    assert len(rows) == 3
    assert ["best" in row[0] for row in rows].index(True) == distances.index(min(distances))
