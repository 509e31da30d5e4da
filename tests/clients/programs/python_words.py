"""The words of `scenarios.toml` for the Python SDK: one scenario a line comes in, its results go out.

A result is what a step gives, or `{"fails": CODE}`. The lines are JSON. The first that goes out
has the words.
"""

import hashlib
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
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
def chown_to_itself(stage: Stage, _: Any, step: Json) -> Json:
    found = stage.box.files.stat(step["path"])
    changed = stage.box.files.chown(step["path"], found.uid, found.gid)
    return {"is_it": (found.uid, found.gid) == (changed.uid, changed.gid)}


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
    with stage.box.fork(checkpoint=step["checkpoint"], memory=step.get("memory", False)) as (made,):
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


# What an owner has


@word
def create_box(stage: Stage, _: Any, step: Json) -> bay.Box:
    return stage.client.sandboxes.create(**step, wait=60)


@word
def create_box_on(stage: Stage, cargo: bay.Cargo, step: Json) -> bay.Box:
    return stage.client.sandboxes.create(cargo_id=cargo.id, wait=60)


@word
def sandbox_of_image(stage: Stage, _: Any, step: Json) -> Json:
    with stage.client.sandbox(image=step["image"]) as box:
        return {"image": box.info.image, "status": box.info.status}


@word
def delete_box(stage: Stage, box: bay.Box, step: Json) -> None:
    box.delete()


@word
def run_in(stage: Stage, box: bay.Box, step: Json) -> Json:
    return of_run(box.run(**step))


@word
def set_secret(stage: Stage, _: Any, step: Json) -> Json:
    return {"name": stage.client.secrets.set(**step).name}


@word
def list_secrets(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [secret.name for secret in stage.client.secrets.list()]}


@word
def delete_secret(stage: Stage, _: Any, step: Json) -> None:
    stage.client.secrets.delete(**step)


@word
def create_key(stage: Stage, _: Any, step: Json) -> bay.NewKey:
    quotas = step.pop("quotas", None)
    return stage.client.keys.create(**step, quotas=None if quotas is None else bay.Limits(**quotas))


@word
def of_key(stage: Stage, key: bay.NewKey, step: Json) -> Json:
    return {
        "scope": key.scope,
        "running": key.quotas and key.quotas.running,
        "has_secret": key.secret is not None,
        "expires": key.expires_at is not None,
    }


@word
def create_with_key(stage: Stage, key: bay.NewKey, step: Json) -> None:
    with bay.Client(stage.url, key.secret) as other:
        other.sandboxes.create()


@word
def connect_with_key(stage: Stage, key: bay.NewKey, step: Json) -> None:
    with bay.Client(stage.url, key.secret, retry_s=600) as other:
        own = other.sandboxes.get(stage.box.id)
        with own.tunnel(1) if step["to"] == "tunnel" else own.terminal():
            pass


@word
def list_keys(stage: Stage, _: Any, step: Json) -> Json:
    keys = [key for key in stage.client.keys.list(**step) if key.revoked_at is None]
    return {"scopes": [key.scope for key in keys], "has_secret": any(hasattr(key, "secret") for key in keys)}


@word
def revoke_key(stage: Stage, key: bay.NewKey, step: Json) -> None:
    stage.client.keys.revoke(key.id)


@word
def create_cargo(stage: Stage, _: Any, step: Json) -> bay.Cargo:
    return stage.client.cargos.create(**step)


@word
def create_cargo_of(stage: Stage, _: Any, step: Json) -> bay.Cargo:
    checkpoint = stage.box.get_checkpoint(step["checkpoint"])
    return stage.client.cargos.create(from_checkpoint=checkpoint)


@word
def get_cargo(stage: Stage, cargo: bay.Cargo, step: Json) -> Json:
    return {"managed": stage.client.cargos.get(cargo.id).managed}


@word
def update_cargo(stage: Stage, cargo: bay.Cargo, step: Json) -> Json:
    return {"size_limit_mb": stage.client.cargos.update(cargo.id, **step).size_limit_mb}


@word
def list_cargos(stage: Stage, cargo: bay.Cargo, step: Json) -> Json:
    found = list(stage.client.cargos.list(**step))
    return {
        "is_listed": cargo.id in [one.id for one in found],
        "managed": sorted({one.managed for one in found}),
    }


@word
def move_cargo(stage: Stage, cargo: bay.Cargo, step: Json) -> Json:
    return {"is_its": stage.box.id in stage.client.cargos.move(cargo.id, stage.box.id).sandbox_ids}


@word
def delete_cargo(stage: Stage, cargo: bay.Cargo, step: Json) -> None:
    stage.client.cargos.delete(cargo.id)


@word
def create_webhook(stage: Stage, _: Any, step: Json) -> bay.Webhook:
    return stage.client.webhooks.create(**step)


@word
def get_webhook(stage: Stage, hook: bay.Webhook, step: Json) -> Json:
    found = stage.client.webhooks.get(hook.id)
    return {"types": list(found.types), "has_secret": found.secret is not None or hook.secret is None}


@word
def list_webhooks(stage: Stage, _: Any, step: Json) -> Json:
    return {"urls": [hook.url for hook in stage.client.webhooks.list()]}


@word
def delete_webhook(stage: Stage, hook: bay.Webhook, step: Json) -> None:
    stage.client.webhooks.delete(hook.id)


BODY = b'{"id":"1","type":"sandbox.ready","at":"2026-01-01T00:00:00Z","sandbox_id":"sandbox-1","data":{}}'


@word
def verify_webhook(stage: Stage, _: Any, step: Json) -> Json:
    names = ("id", "timestamp", "signature")
    headers = {f"Webhook-{name}": step[name] for name in names}
    return {"type": bay.verify_webhook(step["secret"], headers, BODY, now=step["now"]).type}


@word
def login(stage: Stage, _: Any, step: Json) -> Json:
    made = stage.client.registries.login(**step)
    return {"host": made.host, "username": made.username, "has_password": hasattr(made, "password")}


@word
def list_logins(stage: Stage, _: Any, step: Json) -> Json:
    return {"hosts": [one.host for one in stage.client.registries.list()]}


@word
def logout(stage: Stage, _: Any, step: Json) -> None:
    stage.client.registries.logout(**step)


@word
def metrics(stage: Stage, _: Any, step: Json) -> Json:
    found = stage.box.metrics(
        **{name: datetime.fromisoformat(at) for name, at in step.pop("between", {}).items()}, **step
    )
    return {"step": found.step, "points": len(found.points)}


@word
def audit(stage: Stage, _: Any, step: Json) -> Json:
    return {"seen": seen_of(stage.client.audit.list(resource_id=stage.box.id, **step))}


@word
def audit_from_the_last_on(stage: Stage, _: Any, step: Json) -> Json:
    listed, asked = stage.client.audit.list, {"resource_id": stage.box.id, "method": "PATCH"}
    *_, last = listed(**asked)
    before = len(list(listed(**asked, until=last.at)))
    return {"seen": seen_of(listed(**asked, since=last.at)), "before": before}


@word
def pool(stage: Stage, _: Any, step: Json) -> Json:
    stage.client.admin.pool()
    return {"is_list": True}


@word
def collect_garbage(stage: Stage, _: Any, step: Json) -> Json:
    done = stage.client.admin.collect_garbage(step["tasks"])
    return {"tasks": [one.task_name for one in done.results], "total_errors": done.total_errors}


@word
def garbage_state(stage: Stage, _: Any, step: Json) -> Json:
    state = stage.client.admin.garbage_state()
    return {"is_running": state.is_running, "tasks": [one.task_name for one in state.results]}


@word
def replicas(stage: Stage, _: Any, step: Json) -> Json:
    state = stage.client.admin.replicas()
    shards = sum(len(one.shards) for one in state.items)
    return {"own": [one.is_self for one in state.items], "shards": shards, "unheld": len(state.unheld)}


@word
def host(stage: Stage, _: Any, step: Json) -> Json:
    found = stage.client.admin.host()
    adds_up = sum(found.sandboxes.by_compute.values()) == found.sandboxes.total
    return {
        "driver": found.driver,
        "load": len(found.load),
        "has_storage": found.storage is not None,
        "adds_up": adds_up,
    }


@word
def settings(stage: Stage, _: Any, step: Json) -> Json:
    found = {one.name: [one.is_secret, one.is_set] for one in stage.client.admin.settings()}
    return {"api_key": found["api_key"], "port": found["port"]}


@word
def shell(stage: Stage, _: Any, step: Json) -> Json:
    done = stage.box.shell(**step)
    return {"success": done.success, "exit_code": done.exit_code, "output": done.output}


@word
def history(stage: Stage, _: Any, step: Json) -> Json:
    return {"codes": [entry.code for entry in stage.box.history(**step)]}


@word
def last_execution(stage: Stage, _: Any, step: Json) -> None:
    stage.box.last_execution()


@word
def annotate_last(stage: Stage, _: Any, step: Json) -> Json:
    last = stage.box.last_execution("shell")
    noted = stage.box.annotate(last.id, **step)
    return {"notes": noted.notes, "is_it": stage.box.history_entry(last.id) == noted}


@word
def history_entry(stage: Stage, _: Any, step: Json) -> None:
    stage.box.history_entry(step["id"])


@word
def keep_payload(stage: Stage, _: Any, step: Json) -> str:
    return stage.client.skills.keep(**step)


@word
def payload(stage: Stage, ref: str, step: Json) -> Json:
    found = stage.client.skills.payload(ref)
    return {"kind": found.kind, "payload": found.payload}


@word
def delete_payload(stage: Stage, ref: str, step: Json) -> None:
    stage.client.skills.delete_payload(ref)


@word
def create_candidate(stage: Stage, _: Any, step: Json) -> str:
    source = stage.box.shell("true").execution_id
    return stage.client.skills.create(step.pop("skill_key"), [source], **step).id


@word
def candidate(stage: Stage, candidate_id: str, step: Json) -> Json:
    found = stage.client.skills.candidate(candidate_id)
    return {"status": found.status, "summary": found.summary, "sources": len(found.source_execution_ids)}


@word
def candidates(stage: Stage, _: Any, step: Json) -> Json:
    return {"statuses": [one.status for one in stage.client.skills.candidates(**step)]}


@word
def evaluate(stage: Stage, candidate_id: str, step: Json) -> Json:
    made = stage.client.skills.evaluate(candidate_id, **step)
    return {"score": made.score, "passed": made.passed}


@word
def promote(stage: Stage, candidate_id: str, step: Json) -> str:
    return stage.client.skills.promote(candidate_id, **step).id


@word
def releases(stage: Stage, _: Any, step: Json) -> Json:
    # Versions of a key go on counting when its releases are deleted.
    versions = [one.version for one in stage.client.skills.releases(**step)]
    return {"back": [versions[0] - version for version in versions]}


@word
def skill_health(stage: Stage, release_id: str, step: Json) -> Json:
    found = stage.client.skills.health(release_id)
    return {"samples": found.samples, "stage": found.stage}


@word
def rollback(stage: Stage, release_id: str, step: Json) -> str:
    return stage.client.skills.rollback(release_id).id


@word
def delete_candidate(stage: Stage, candidate_id: str, step: Json) -> Json:
    return {"delete_reason": stage.client.skills.delete_candidate(candidate_id, **step).delete_reason}


@word
def delete_release(stage: Stage, release_id: str, step: Json) -> Json:
    return {"delete_reason": stage.client.skills.delete_release(release_id, **step).delete_reason}


@word
def browser(stage: Stage, box: bay.Box | None, step: Json) -> Json:
    used = (box or stage.box).browser
    done = used.exec(**step)
    trace = used.trace(done.trace_ref).trace["commands"] if done.trace_ref else None
    return {"success": done.success, "output": done.output, "exit_code": done.exit_code, "trace": trace}


@word
def browser_batch(stage: Stage, box: bay.Box, step: Json) -> Json:
    done = box.browser.exec_batch(**step)
    codes = [one.exit_code for one in done.results]
    return {"success": done.success, "completed_steps": done.completed_steps, "codes": codes}


@word
def run_skill(stage: Stage, box: bay.Box, step: Json) -> None:
    box.browser.run_skill(**step)


@word
def trace(stage: Stage, box: bay.Box, step: Json) -> None:
    box.browser.trace(step["ref"])


ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
client, _ = server.accept()
while data := client.recv(65536):
    client.sendall(data)
client.shutdown(socket.SHUT_WR)
"""


@word
def tunnel(stage: Stage, _: Any, step: Json) -> Json:
    port = step["port"]
    if port == "echo":
        port = int(next(stage.box.spawn(["python3", "-c", ECHO]).output()).data)
    sent = step["data"].encode() * step.get("times", 1)
    with stage.box.tunnel(port) as tunnelled:
        sender = threading.Thread(target=lambda: (tunnelled.send(sent), tunnelled.send_eof()))
        sender.start()
        received = b"".join(iter(tunnelled.receive, b""))
        sender.join()
    return {"text": received.decode(), "bytes": len(received)}


@word
def pull_image(stage: Stage, _: Any, step: Json) -> tuple[bay.ContainerImage, list[str]]:
    told: list[str] = []
    return stage.client.images.pull(**step, progress=lambda image: told.append(image.state)), told


@word
def import_image(stage: Stage, _: Any, step: Json) -> tuple[bay.ContainerImage, list[str]]:
    return stage.client.images.import_archive(io.BytesIO(step["data"].encode()), step["ref"]), []


@word
def image(stage: Stage, pulled: tuple[bay.ContainerImage, list[str]], step: Json) -> Json:
    found = stage.client.images.get(pulled[0].id)
    return {"state": found.state, "ref": found.ref, "source": found.source, "told": pulled[1]}


@word
def get_image(stage: Stage, _: Any, step: Json) -> None:
    stage.client.images.get(**step)


@word
def delete_image(stage: Stage, _: Any, step: Json) -> None:
    stage.client.images.delete(**step)


@word
def export_image(stage: Stage, _: Any, step: Json) -> Json:
    target = io.BytesIO()
    size = stage.client.images.export(step["ref"], target)
    data = target.getvalue()
    return {"is_whole": size == len(data) > 1024 and data.endswith(bytes(1024))}


@word
def list_images(stage: Stage, _: Any, step: Json) -> Json:
    return {"refs": [found.ref for found in stage.client.images.list(**step)]}


@word
def prune_images(stage: Stage, _: Any, step: Json) -> Json:
    return {"refs": [found.ref for found in stage.client.images.prune(**step)]}


@word
def get_template(stage: Stage, _: Any, step: Json) -> Json:
    return of_template(stage.client.templates.get(**step))


@word
def template_log(stage: Stage, _: Any, step: Json) -> None:
    stage.client.templates.log(**step)


@word
def update_template(stage: Stage, _: Any, step: Json) -> Json:
    return of_template(stage.client.templates.update(**step))


@word
def tag_template(stage: Stage, _: Any, step: Json) -> Json:
    return of_template(stage.client.templates.tag(**step))


@word
def delete_template(stage: Stage, _: Any, step: Json) -> None:
    stage.client.templates.delete(**step)


@word
def list_templates(stage: Stage, _: Any, step: Json) -> Json:
    return {"names": [found.name for found in stage.client.templates.list(**step)]}


@word
def create_template(stage: Stage, box: bay.Box | None, step: Json) -> Json:
    sandbox = (box or stage.box).id
    return of_template(stage.client.templates.create(step.pop("name"), sandbox, **step))


@word
def build(stage: Stage, _: Any, step: Json) -> Json:
    log: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        for name, text in step.pop("files").items():
            Path(root, name).parent.mkdir(parents=True, exist_ok=True)
            Path(root, name).write_text(text)
        made = stage.client.templates.build(root, **step, log=log.append)
    return {**of_template(made), "logged": stage.client.templates.log(made.id) == "".join(log) != ""}


# What results have


def seen_of(entries: Iterable[bay.AuditEntry]) -> list[Any]:
    return [[entry.status, entry.code or "none"] for entry in entries]


def of_template(template: bay.Template) -> Json:
    return {"name": template.name, "tag": template.tag, "state": template.state}


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
