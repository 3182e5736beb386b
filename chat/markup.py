"""A finished answer's Markdown as HTML that cannot do anything.

Raw HTML is off in the parser and whatever comes out passes an allow-list: no images (a remote one reports who
reads), no classes but a code block's language, no attribute that htmx or a script would act on.
"""

import re
from functools import lru_cache
from html import escape

import nh3
from markdown_it import MarkdownIt

_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "blockquote"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a"),
}
_CODE = re.compile(r'<pre>(?P<code><code(?: class="language-(?P<language>[^"]*)")?>)')
_TABLE = '<div class="table" tabindex="0" role="region" aria-label="Table"><table>'
_ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, "code": {"class"}}


def _code_language(tag: str, attribute: str, value: str) -> str | None:
    if (tag, attribute) == ("code", "class"):
        return value if value.startswith("language-") and value[9:].replace("-", "").isalnum() else None
    return value


RENDERED_LIMIT = 400_000  # of HTML; a frame has room for it


@lru_cache(maxsize=256)
def render_markdown(text: str) -> str:
    """Safe HTML for the whole text of a message. Never call it with a piece of one."""
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    parser.disable("image")
    return _framed(
        nh3.clean(
            parser.render(text),
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            attribute_filter=_code_language,
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
        )
    )


def _framed(html: str) -> str:
    """Around what can be wider than a phone, something that scrolls; at code, its language and a copy button.

    After cleaning, a tag is written in one way only, and a `<` of the text as `&lt;`: nothing else can match.
    """
    html = _CODE.sub(_code_head, html).replace("</pre>", "</pre></div>")
    return html.replace("<table>", _TABLE).replace("</table>", "</table></div>")


def _code_head(match: re.Match[str]) -> str:
    language = match["language"] or ""
    return (
        f'<div class="code"><div class="code-head"><span>{language or "text"}</span>'
        '<button type="button" class="bare copy">Copy</button></div>'
        f'<pre tabindex="0">{match["code"]}'
    )


def exactly(text: str) -> str:
    """Plain text for HTML, character for character.

    A parser of HTML makes a carriage return a line feed unless it is written as a reference, and the browser
    counts characters to see where the next piece belongs.
    """
    return escape(text, quote=False).replace("\r", "&#13;")
