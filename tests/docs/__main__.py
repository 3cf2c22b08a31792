"""``python -m tests.docs``: write the generated parts of the documentation."""

from tests.docs.generated import SECTIONS, rendered
from tests.docs.pages import ROOT

for page in SECTIONS:
    (ROOT / page).write_text(rendered(page))
