"""``python -m tests.docs``: write the generated parts of the documentation, and the OpenAPI document."""

from tests.docs import openapi
from tests.docs.generated import SECTIONS, rendered
from tests.docs.pages import ROOT

for page in SECTIONS:
    (ROOT / page).write_text(rendered(page))
openapi.FILE.write_text(openapi.document())
