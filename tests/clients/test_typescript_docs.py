"""The TypeScript in the documentation is checked by the compiler, and run in sandboxes of this host."""

import json
import os
import re
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bay.server import embedded

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "typescript"
BLOCK = re.compile(r"(?ms)^```ts\n(.*?)^```$")
TEXTS = {
    f"{path.stem}{number}": text
    for path in (PACKAGE / "README.md", ROOT / "docs" / "typescript.md")
    for number, text in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
}
# The declarations of Node are not installed. Those of what the examples use of it are these.
NODE = """
declare module "node:fs" {
  export function createReadStream(path: string): AsyncIterable<Uint8Array>;
  export function createWriteStream(path: string): object;
  export function openAsBlob(path: string): Promise<Blob>;
}
declare module "node:net" {
  export interface Socket {
    on(event: "error", heard: (error: Error) => void): void;
    destroy(): void;
  }
  export interface Server {
    listen(port: number, host: string, listening: () => void): void;
    address(): { port: number };
    close(): void;
  }
  export function createServer(options: { allowHalfOpen: boolean }, serve: (socket: Socket) => void): Server;
}
declare module "node:stream" {
  export const Duplex: { fromWeb(pair: { readable: object; writable: object }): object };
  export function pipeline(from: object, through: object, to: object, ended: () => void): void;
  export const Writable: { toWeb(stream: object): WritableStream<Uint8Array> };
}
"""
# Each comment is an error of the compiler unless the line below it is one: options are not just anything.
TYPES = """
import type { Box, CreateOptions, Exec, SpawnOptions } from "bay-sandbox";
export const made: CreateOptions = { memoryMb: 512, idleTimeout: "10m", ttl: null, url: 8000, secrets: ["KEY"] };
export const begun: SpawnOptions = { maxRunAfterDisconnectS: 60, tty: true, waitForReader: false };
export const ended = (info: Exec): [number | null, string] => [info.exit_code, info.started_at];
// @ts-expect-error
export const wire: CreateOptions = { memory_mb: 512 };
// @ts-expect-error
export const slip: CreateOptions = { memoryMB: 512 };
// @ts-expect-error
export const kind: SpawnOptions = { tty: "yes" };
// @ts-expect-error
export const moved = (box: Box) => box.info.expiresAt;
"""
STRICT = {"strict": True, "noUncheckedIndexedAccess": True, "skipLibCheck": True, "types": list[str]()}
LIB = ["ES2022", "ESNext.Disposable", "DOM", "DOM.Iterable", "DOM.AsyncIterable"]


@dataclass(frozen=True)
class Program:
    """The compiled examples in a directory where the package is installed, and how they find a Bay."""

    directory: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Generator[Program]:
    directory = tmp_path_factory.mktemp("typescript")
    (directory / "node_modules").mkdir()
    (directory / "node_modules" / "bay-sandbox").symlink_to(PACKAGE)
    (directory / "package.json").write_text('{"type": "module"}')
    (directory / "node.d.ts").write_text(NODE)
    (directory / "types.ts").write_text(TYPES)
    for name, text in TEXTS.items():
        (directory / f"{name}.ts").write_text(text, encoding="utf-8")
    options = {**STRICT, "target": "ES2022", "module": "NodeNext", "lib": LIB}
    (directory / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    compiler = PACKAGE / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        ["node", compiler], cwd=directory, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    with embedded.start() as (url, key):
        yield Program(directory, {"BAY_URL": url, "BAY_API_KEY": key})


@pytest.mark.parametrize("name", TEXTS)
def test_an_example_compiles_and_runs(program: Program, name: str) -> None:
    done = subprocess.run(
        ["node", f"{name}.js"],
        cwd=program.directory,
        env={**os.environ, **program.environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout != ""
