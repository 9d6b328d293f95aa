"""Pictures of the page for the docs: python -m tests.report.page.screenshots (after dvc repro)."""

import base64
import sys
from pathlib import Path

from tests.report.page.conftest import start_browser

ROOT = Path(__file__).parents[3]
SHOWN = "#circuit?step=1000&node=a1.h1&without=a0.h3"
SHOTS = {"light": (1280, 1000, "light"), "dark": (1280, 1000, "dark"), "phone": (400, 800, "light")}


def main() -> None:
    browser = start_browser()
    if browser is None:
        sys.exit("error: no Chromium and chromedriver; install Debian's chromium-driver")
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    for name, (width, height, theme) in SHOTS.items():
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get("about:blank")
        browser.get(f"{(ROOT / 'reports/index.html').as_uri()}{SHOWN}")
        browser.execute_async_script("setTimeout(arguments[0], 1500)")
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (folder / f"page-{name}.png").write_bytes(base64.b64decode(taken["data"]))
    browser.quit()


if __name__ == "__main__":
    main()
