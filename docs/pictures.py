"""Pictures of a report for the documentation, into `images/`.

    spec-opt run quickstart
    python docs/pictures.py reports/quickstart/report.html

They are not made by `make docs`: a report shows what its machine measured.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH = 1000
MARGIN = 12
PARTS = {
    "report_front": ("h1", "#pareto_frontier"),
    "report_settings": ("#which-setting-to-use", ".card"),
    "report_heatmaps": (".pair", ".pair"),
}
"""The first and the last element of each, as CSS selectors."""


def picture(page: Page, name: str, first: str, last: str) -> None:
    """Write one picture."""
    top, end = (page.locator(at).first.bounding_box() for at in (first, last))
    assert top is not None
    assert end is not None
    begin, height = top["y"] - MARGIN, end["y"] + end["height"] - top["y"] + MARGIN
    clip: FloatRect = {"x": 0, "y": begin, "width": WIDTH, "height": height}
    page.screenshot(path=IMAGES / f"{name}.png", clip=clip, full_page=True)


def main(report: Path) -> None:
    """Write all pictures of a report."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("#hypervolume .main-svg")  # the last one that is drawn
        for name, (first, last) in PARTS.items():
            picture(page, name, first, last)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
