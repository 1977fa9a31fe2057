"""The report's page is valid HTML that needs nothing from elsewhere, and its files open with other people's readers."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import html5lib

bin_dir = pathlib.Path(os.environ["QUADRAT_BIN"])


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run([bin_dir.parent / "tests" / "make_records", folder, "30"], check=True)
        done = subprocess.run([bin_dir / "quadrat-report", "--run", "made", "--scores", "year2", "--versus", "year1",
                               "--output", "report"], cwd=folder, check=True, capture_output=True, text=True)
        files = done.stdout.split()
        assert files == ["report/index.html", "report/map.tif", "report/map_smoothed.tif", "report/tiles.gpkg",
                         "report/changes.csv"], files
        text = (folder / "report/index.html").read_text(encoding="utf-8")
        page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)  # raises on any error
        ids = [e.get("id") for e in page.iter() if e.get("id")]
        assert len(ids) == len(set(ids)), "an id is there twice"
        for element in page.iter():
            for name in ("src", "href"):
                link = element.get(name)
                assert link is None or link.startswith(("data:image/png;base64,", "#")), link
                if link is not None and link.startswith("#"):
                    assert link[1:] in ids, link
            if element.tag == "img":
                assert element.get("alt") is not None
        # 30 tiles of 224 m across: of the round lengths up to a quarter of that, a kilometre.
        ruler = next(e for e in page.iter() if e.get("id") == "ruler")
        assert ruler.get("data-metres") == "6720" and ruler.get("style") == "width:14.88%", ruler.attrib
        assert "</i><span>1 km</span>" in text
        assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)


sys.exit(main())
