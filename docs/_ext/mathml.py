"""Formulas as MathML, which browsers draw themselves: no script, no font, no network. docutils translates."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

# MathML stretches brackets and sets sums by itself
_SIZES = re.compile(r"\\([bB]ig{1,2}[lrm]?|textstyle)(?![a-zA-Z])")
_ALIGNED = re.compile(r"\\begin\{(aligned|split|gathered|cases|array)")


def to_mathml(tex: str, *, block: bool) -> str:
    """Translate a formula; MathError for what docutils does not know."""
    tex = _SIZES.sub("", tex).strip()
    if block and r"\\" in tex and not _ALIGNED.search(tex):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    return tex2mathml(tex, as_block=block)


def _translated(self, node, block: bool) -> str:
    try:
        return to_mathml(node.astext(), block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in the formula %s", error, node.astext(), location=node)
        return self.encode(node.astext())


def visit_inline(self, node):
    self.body.append(_translated(self, node, block=False))
    raise nodes.SkipNode


def visit_block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(_translated(self, node, block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
