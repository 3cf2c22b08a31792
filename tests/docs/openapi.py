"""The OpenAPI document as a file, so that clients are generated without a running service."""

import json

from service.app import create_app
from service.config import demo
from tests.docs.pages import ROOT

FILE = ROOT / "docs" / "openapi.json"


def document() -> str:
    """Return the document that the service serves at ``/schema/openapi.json``."""
    schema = create_app(demo.settings({})).openapi_schema.to_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
