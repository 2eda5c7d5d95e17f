"""Reads a page as a browser would, far enough to judge it."""

import re
from html.parser import HTMLParser

import pytest

VOID = {"meta", "br", "link", "img", "use", "path", "rect"}
LINKS = ("src", "href", "xlink:href", "action", "srcset", "poster", "data")


class Page(HTMLParser):
    """Ids, addresses, unclosed elements and the cells of the tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def row(self, first: str, index: int = 0) -> list[str]:
        """The cells after the first of a table's row, of those that start so."""
        return [row[1:] for row in self.rows if row and row[0] == first][index]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in LINKS and value:
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def require_alone(text: str) -> None:
    """Nothing on a page is fetched, and nothing runs."""
    hosts = set(re.findall(r"https?://[^\"'\s)]+", text))
    assert hosts <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<script|@import|url\((?!#)", text)


@pytest.fixture(scope="session")
def parsed():
    def parse(text: str) -> Page:
        page = Page()
        page.feed(text)
        assert all(each.startswith(("#", "data:image/")) for each in page.addresses)
        assert not page.open
        assert len(page.ids) == len(set(page.ids))
        require_alone(text)
        return page

    return parse
