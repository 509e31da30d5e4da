"""Writes the types of the TypeScript SDK, `clients/typescript/src/schema.ts`, from Bay's OpenAPI document.

    python scripts/generate_typescript.py           write them
    python scripts/generate_typescript.py --check   exit 1 when they are out of date

openapi-typescript does the work, which `make .stamp-typescript` installs. It gets the schemas alone: the SDK
has the paths by itself, and the titles, which repeat the names, would be half of the file.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from bay.server.app import build_app
from bay.server.settings import load

PACKAGE = Path(__file__).resolve().parent.parent / "clients" / "typescript"
SCHEMA = PACKAGE / "src" / "schema.ts"
PROGRAM = PACKAGE / "node_modules" / "openapi-typescript" / "bin" / "cli.js"


def document() -> dict[str, Any]:
    """The OpenAPI document, with its schemas alone."""
    with tempfile.TemporaryDirectory() as root:
        settings = load(driver="fake", data_dir=Path(root, "data"), run_dir=Path(root, "run"))
        whole = build_app(settings).openapi()
    schemas = {name: _untitled(schema) for name, schema in whole["components"]["schemas"].items()}
    return {**whole, "paths": {}, "components": {"schemas": schemas}}


def _untitled(schema: Any) -> Any:
    """The same without titles. A property of that name is an object, and stays."""
    if isinstance(schema, list):
        return [_untitled(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = cast("dict[str, Any]", schema).items()
    return {name: _untitled(value) for name, value in found if name != "title" or not isinstance(value, str)}


def generated() -> str:
    """The text of `schema.ts` as it should be."""
    with tempfile.TemporaryDirectory() as root:
        (source := Path(root, "openapi.json")).write_text(json.dumps(document()), encoding="utf-8")
        command = ["node", str(PROGRAM), str(source), "--output", f"{root}/schema.ts"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"openapi-typescript refused the document:\n{done.stderr}{done.stdout}")
        return Path(root, "schema.ts").read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the types, or with `--check` only say whether they are out of date."""
    text = generated()
    is_current = SCHEMA.is_file() and SCHEMA.read_text(encoding="utf-8") == text
    if "--check" in arguments:
        if not is_current:
            print(f"{SCHEMA} is out of date; run scripts/generate_typescript.py", file=sys.stderr)
        return 0 if is_current else 1
    SCHEMA.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
