"""Makes the picture of docs/observing.md, which says how this is run.

A real router with the demo model, passages of the tests, and a browser.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from kvquilt import Client, Document
from kvquilt_router.engine import load_model
from tests.browser import browser
from tests.e2e.pages import paged
from tests.texts import PASSAGES


def main(target: Path) -> None:
    first, second, third = PASSAGES[:3]
    edited = third.replace(" the ", " that ", 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        paged(load_model("smollm2"), Path(folder)) as (router, url),
        Client(router) as client,
        browser() as window,
    ):
        documents = [Document(str(number), text) for number, text in enumerate((first, second, third))]
        list(client.prefetch(documents, corpus="passages"))
        client.blend([first, "What is this about?"])
        client.blend([second, first, "What do these two have in common?"])
        report = client.blend([second, edited, "Nobody has seen this one. " * 4, first, "What is new?"]).report
        window.look(width=820, height=1180, dark=False)
        window.open(f"{url}#{report.request_id}")
        window.until("return document.querySelectorAll('#patches tr').length > 0")
        window.run("document.getElementById('h-requests').scrollIntoView()")
        picture = io.BytesIO(window.screenshot(whole=False))
        Image.open(picture).convert("RGB").quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
