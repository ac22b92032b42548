"""Pages that were written, read as a browser reads them."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements and texts of a page, by the section that they stand in."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.section = "head"
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert not self.open, self.open  # each element was ended

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "section":
            self.section = attributes["id"]
        self.elements.append((self.section, tag, attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((self.section, tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append((self.section, self.open[-1] if self.open else "", " ".join(data.split())))

    @property
    def sections(self):
        return [attributes["id"] for _, tag, attributes in self.elements if tag == "section"]

    def text(self, section=None):
        return " ".join(text for of, _, text in self.texts if text and of in (section, section or of))

    def all(self, tag, section=None):
        return [
            attributes for of, found, attributes in self.elements if found == tag and of in (section, section or of)
        ]

    def figures(self):
        """Return the descriptions of the figures, by their titles."""
        titles = [text for _, tag, text in self.texts if tag == "title"][1:]  # the first is the page's
        described = [text for _, tag, text in self.texts if tag == "desc"]
        return dict(zip(titles, described, strict=True))
