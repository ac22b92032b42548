"""The elements and the text of a page, as a browser reads them."""

from html.parser import HTMLParser


class Elements(HTMLParser):
    """All elements of a page in order, each with its attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for found, attributes in self.found if found == tag]
