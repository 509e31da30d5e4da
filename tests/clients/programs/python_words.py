"""The words of `scenarios.toml` for the Python SDK: one scenario a line comes in, its results go out.

A result is what a step gives, or `{"fails": CODE}`. The lines are JSON. The first that goes out
has the words.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import bay

Json = dict[str, Any]


class Stage:
    """One scenario's client, its sandbox, and what its steps have made."""

    def __init__(self, client: bay.Client, box: bay.Box, url: str) -> None:
        self.client, self.box, self.url = client, box, url
        self.things: dict[str, Any] = {}


Word = Callable[[Stage, Any, Json], Any]
WORDS: dict[str, Word] = {}


def word(function: Word) -> Word:
    WORDS[function.__name__] = function
    return function


# Commands


@word
def run(stage: Stage, _: Any, step: Json) -> Json:
    return of_run(stage.box.run(**step))


@word
def spawn(stage: Stage, _: Any, step: Json) -> bay.Proc:
    return stage.box.spawn(**step)


@word
def reattach(stage: Stage, proc: bay.Proc, step: Json) -> bay.Proc:
    return stage.client.sandboxes.get(stage.box.id).execs.get(proc.id)


@word
def first(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    chunk = next(proc.output())
    return {"offset": chunk.offset, "stream": chunk.stream, "text": chunk.data.decode()}


@word
def output(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    chunks = list(proc.output(**step))
    text = b"".join(chunk.data for chunk in chunks).decode()
    first_offset = chunks[0].offset if chunks else None
    return {
        "text": text,
        "first_offset": first_offset,
        "exit_code": proc.info.exit_code,
        "state": proc.info.state,
    }


@word
def wait(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    return of_run(proc.wait(timeout_s=60))


@word
def write(stage: Stage, proc: bay.Proc, step: Json) -> None:
    proc.write(**step)


@word
def close_stdin(stage: Stage, proc: bay.Proc, step: Json) -> None:
    proc.close_stdin()


@word
def signal(stage: Stage, proc: bay.Proc, step: Json) -> None:
    proc.signal(**step)


@word
def kill(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    return {"state": proc.kill().state}


@word
def attach(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    with proc.attach(step.get("since")) as attached:
        if "data" in step:
            attached.write(step["data"])
            attached.send_eof()
        text = b"".join(chunk.data for chunk in attached).decode()
        return {
            "text": text,
            "exit_code": attached.exit and attached.exit.exit_code,
            "offset": attached.offset,
        }


@word
def terminal(stage: Stage, _: Any, step: Json) -> Json:
    with stage.box.terminal(rows=step["rows"], cols=step["cols"]) as attached:
        attached.write(step["data"])
        text = b"".join(chunk.data for chunk in attached).decode()
        return {"shown": step["shows"] in text, "exit_code": attached.exit and attached.exit.exit_code}


@word
def digest(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    return digest_of(chunk.data for chunk in proc.output())


@word
def digest_attached(stage: Stage, proc: bay.Proc, step: Json) -> Json:
    with proc.attach() as attached:
        return digest_of(chunk.data for chunk in attached)


# Files


@word
def write_file(stage: Stage, _: Any, step: Json) -> Json:
    return {"size": stage.box.files.write(**step)}


@word
def read_file(stage: Stage, _: Any, step: Json) -> Json:
    return {"text": stage.box.files.read(**step).decode()}


@word
def digest_file(stage: Stage, _: Any, step: Json) -> Json:
    return digest_of([stage.box.files.read(**step)])


@word
def edit_file(stage: Stage, _: Any, step: Json) -> Json:
    return {"replaced": stage.box.files.edit(**step)}


@word
def copy_file(stage: Stage, _: Any, step: Json) -> Json:
    return of_file(stage.box.files.copy(**step))


@word
def move_file(stage: Stage, _: Any, step: Json) -> Json:
    return of_file(stage.box.files.move(**step))


@word
def mkdir(stage: Stage, _: Any, step: Json) -> Json:
    return of_file(stage.box.files.mkdir(**step))


@word
def chmod(stage: Stage, _: Any, step: Json) -> Json:
    return of_file(stage.box.files.chmod(**step))


@word
def stat(stage: Stage, _: Any, step: Json) -> Json:
    return of_file(stage.box.files.stat(**step))


@word
def list_files(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [info.name for info in stage.box.files.list(**step)]}


@word
def walk_files(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [info.name for info in stage.box.files.walk(**step)]}


@word
def glob(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [info.name for info in stage.box.files.glob(**step)]}


@word
def search(stage: Stage, _: Any, step: Json) -> Json:
    found = stage.box.files.search(**step)
    lines = [f"{one.path.rpartition('/')[2]}:{one.line}:{one.text}" for one in found.matches]
    return {"lines": lines, "truncated": found.truncated}


@word
def delete_file(stage: Stage, _: Any, step: Json) -> None:
    stage.box.files.delete(**step)


@word
def exists(stage: Stage, _: Any, step: Json) -> Json:
    return {"exists": stage.box.files.exists(**step)}


@word
def copy_archive(stage: Stage, _: Any, step: Json) -> Json:
    archive = stage.box.files.read_archive(step["source"])
    return {"bytes": stage.box.files.write_archive(archive, step["destination"])}


@word
def watch(stage: Stage, _: Any, step: Json) -> Json:
    with stage.box.files.watch(step["path"]) as watched:
        stage.box.files.write(step["write"], "new")
        event = next(iter(watched))
        return {"type": event.type, "name": (event.path or "").rpartition("/")[2]}


# Kernels


@word
def python(stage: Stage, _: Any, step: Json) -> Json:
    return of_cell(stage.box.python, step)


@word
def python_events(stage: Stage, _: Any, step: Json) -> Json:
    return {"types": [event.type for event in stage.box.python.stream(**step)]}


@word
def create_kernel(stage: Stage, _: Any, step: Json) -> bay.Repl:
    return stage.box.kernels.create(**step)


@word
def kernel_python(stage: Stage, kernel: bay.Repl, step: Json) -> Json:
    return of_cell(kernel, step)


@word
def restart_kernel(stage: Stage, kernel: bay.Repl, step: Json) -> None:
    kernel.restart()


@word
def delete_kernel(stage: Stage, kernel: bay.Repl, step: Json) -> None:
    kernel.delete()


@word
def refresh_kernel(stage: Stage, kernel: bay.Repl, step: Json) -> None:
    kernel.refresh()


# The sandbox


@word
def checkpoint(stage: Stage, _: Any, step: Json) -> Json:
    made = stage.box.checkpoint(**step)
    return {"name": made.name, "number": made.number}


@word
def restore(stage: Stage, _: Any, step: Json) -> None:
    stage.box.restore(**step)


@word
def delete_checkpoint(stage: Stage, _: Any, step: Json) -> None:
    stage.box.delete_checkpoint(**step)


@word
def fork(stage: Stage, _: Any, step: Json) -> Json:
    with stage.box.fork(checkpoint=step["checkpoint"]) as (made,):
        return {"text": made.files.read_text(step["path"])}


@word
def set_network(stage: Stage, _: Any, step: Json) -> Json:
    rules = [bay.NetworkRule(**{**rule, "ports": rule.get("ports")}) for rule in step["rules"]]
    return of_policy(stage.box.network.set(step["mode"], rules))


@word
def get_network(stage: Stage, _: Any, step: Json) -> Json:
    return of_policy(stage.box.network.get())


@word
def reset_network(stage: Stage, _: Any, step: Json) -> Json:
    return of_policy(stage.box.network.reset())


@word
def put_service(stage: Stage, _: Any, step: Json) -> Json:
    spec = bay.ServiceSpec(name=step["name"], argv=tuple(step["argv"]))
    return {"state": stage.box.services.put(spec, wait=step["wait"]).state}


@word
def service_logs(stage: Stage, _: Any, step: Json) -> Json:
    text = ""
    for chunk in stage.box.services.logs(step["name"], follow=True):
        text += chunk.data.decode()
        if text.endswith(step["text"]):
            break
    return {"text": text}


@word
def stop_service(stage: Stage, _: Any, step: Json) -> None:
    stage.box.services.stop(**step)


@word
def delete_service(stage: Stage, _: Any, step: Json) -> None:
    stage.box.services.delete(**step)


@word
def get_service(stage: Stage, _: Any, step: Json) -> None:
    stage.box.services.get(**step)


@word
def set_access(stage: Stage, _: Any, step: Json) -> Json:
    return {"access": stage.box.ports.set_access(**step).access}


@word
def forget_port(stage: Stage, _: Any, step: Json) -> None:
    stage.box.ports.forget(**step)


@word
def link(stage: Stage, _: Any, step: Json) -> Json:
    made = stage.box.ports.link(**step)
    return {"once": made.once, "has_url": made.url.startswith("http")}


@word
def url(stage: Stage, _: Any, step: Json) -> Json:
    return {"url": stage.box.url(**step)}


@word
def update(stage: Stage, _: Any, step: Json) -> Json:
    return {"name": stage.box.update(**step).name}


@word
def get(stage: Stage, _: Any, step: Json) -> Json:
    return {"is_it": stage.client.sandboxes.get(step["name"]).id == stage.box.id}


@word
def list_(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [box.name for box in stage.client.sandboxes.list(**step)]}


@word
def create(stage: Stage, _: Any, step: Json) -> Json:
    return {"is_it": stage.client.sandboxes.create(**step).id == stage.box.id}


@word
def create_twice(stage: Stage, _: Any, step: Json) -> Json:
    with stage.client.sandboxes.create(idempotency_key="key-of-a-scenario-in-python") as one:
        two = stage.client.sandboxes.create(idempotency_key="key-of-a-scenario-in-python")
        return {"is_one": one.id == two.id}


@word
def pause(stage: Stage, _: Any, step: Json) -> Json:
    return {"compute": stage.box.pause().compute}


@word
def stop(stage: Stage, _: Any, step: Json) -> None:
    stage.box.stop()


@word
def with_another_key(stage: Stage, _: Any, step: Json) -> None:
    with bay.Client(stage.url, "bay_unknown") as other:
        other.sandboxes.get(stage.box.id)


@word
def events_until_deleted(stage: Stage, _: Any, step: Json) -> Json:
    stage.box.delete()
    return {"types": [event.type for event in stage.client.events("0", sandbox=stage.box.id)]}


# What results have


def of_run(result: bay.RunResult) -> Json:
    names = ("stderr", "exit_code", "signal", "timed_out", "ok", "returncode", "outcome", "omitted_bytes")
    text = result.stdout if len(result.stdout_bytes) < 1000 else None
    fields = {name: getattr(result, name) for name in names}
    return {**fields, "stdout": text, "stdout_bytes": len(result.stdout_bytes)}


def of_cell(kernel: Any, step: Json) -> Json:
    check = step.pop("check", False)
    result: bay.CellResult = kernel.run(**step)
    if check:
        result.check()
    names = ("text", "stdout", "stderr", "status", "ok", "outcome", "restarted")
    fields = {name: getattr(result, name) for name in names if name != "outcome" or not result.ok}
    return {
        **fields,
        "results": [sorted(bundle) for bundle in result.results],
        "images": [image.media_type for image in result.images],
        "ename": result.error and result.error.ename,
        "lines": result.stdout.count("\n"),
    }


def of_file(info: bay.FileInfo) -> Json:
    return {"name": info.name, "type": info.type, "size": info.size, "mode": info.mode}


def of_policy(policy: bay.NetworkPolicy) -> Json:
    return {"mode": policy.mode, "domains": [rule.domain for rule in policy.rules]}


def digest_of(pieces: Iterable[bytes]) -> Json:
    found, size = hashlib.sha256(), 0
    for piece in pieces:
        found.update(piece)
        size += len(piece)
    return {"bytes": size, "sha256": found.hexdigest()}


# The loop


def take(stage: Stage, step: Json) -> Any:
    """What one step gives."""
    name, made_as, of = step.pop("do"), step.pop("as", None), step.pop("of", None)
    try:
        given = WORDS[name](stage, stage.things.get(of), step)
    except bay.BayError as error:
        return {"fails": error.code, "words": error.message}
    if made_as is not None:
        stage.things[made_as] = given
        return None
    return given


def perform(asked: Json) -> list[Any]:
    """The results of a scenario. Its sandbox is made before any connection is cut, and deleted after."""
    with (
        bay.Client(asked["url"], asked["key"]) as direct,
        direct.sandbox() as box,
        bay.Client(asked["through"], asked["key"], retry_s=60) as client,
    ):
        stage = Stage(client, client.sandboxes.get(box.id), asked["url"])
        answer({"ready": True})
        sys.stdin.readline()
        return [take(stage, step) for step in asked["steps"]]


def answer(what: Json) -> None:
    print(json.dumps(what), flush=True)


WORDS["list"] = WORDS.pop("list_")
answer({"words": sorted(WORDS)})
for line in iter(sys.stdin.readline, ""):
    answer({"results": perform(json.loads(line))})
