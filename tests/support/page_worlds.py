"""The table of the pages of the documentation: what each assumes, and the blocks that are not simply run.

A page without a row here has a directory of its own, a Bay, and a key of an owner of its own. Blocks of shell
and of Python are run, and files are given to the program that they are for.
"""

from collections.abc import Mapping

from page_rows import NotRun, ReadBy, Run, RunBy, Serve, Shown, World

IN_A_CLUSTER = (
    "tests/kubernetes/test_helm_install.py::"
    "test_the_page_installs_replicas_that_outlive_a_pod_an_upgrade_and_an_uninstall"
)
INTERRUPT = "\x03"
LOOPBACK = "the tests have no network but loopback, and this asks a server of the internet"
REGISTRY = "the tests have no network but loopback, and this asks a package registry"

HAS_CLONED = """
touch -d @0 pyproject.toml requirements/server.txt scripts/setup-python.sh scripts/setup-uv.txt
ln -s /path/to/the/clone/.venv .venv
touch .stamp-server
"""
"""Gives a clone what `make setup` has installed in this checkout, so that it installs nothing."""
SYSTEMCTL = """
cat >"$PROGRAMS/systemctl" <<'END'
#!/bin/sh
case "$1" in daemon-reload|enable|start|stop|restart|reload) ;; *) exit 1 ;; esac
END
chmod 755 "$PROGRAMS/systemctl"
"""
"""No systemd runs where tests run: this takes the verbs that the pages use."""
SERVE = """
bay serve >PLACE/serve.log & server=$!
until grep -q 'API is at' PLACE/serve.log; do sleep 0.1; kill -0 $server; done
"""
REPLICAS_READY = """
for port in 8701 8702; do
  until curl --silent http://127.0.0.1:$port/health/ready; do sleep 0.1; kill -0 %1 %2; done
done
"""
DEPLOYED = """
cp -r /path/to/the/clone/deploy .
mkdir -p etc/systemd/system etc/nginx/conf.d etc/caddy ssl
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=bay.example.com -keyout ssl/privkey.pem -out ssl/fullchain.pem
sed -i 's|[/]etc/ssl/bay|PLACE/here/ssl|g' deploy/nginx.conf deploy/Caddyfile
sed -i 's|/usr/local/bin/bay|/bin/true|' deploy/*.service
echo 'pid nginx.pid; events {} http { access_log off; include conf.d/*.conf; }' >etc/nginx/nginx.conf
cat >"$PROGRAMS/nginx" <<'END'
#!/bin/sh
exec /usr/sbin/nginx -p /etc/nginx -c nginx.conf -e stderr "$@"
END
cat >"$PROGRAMS/systemctl" <<'END'
#!/bin/sh
case "$*" in
"daemon-reload") systemd-analyze verify --man=no --recursive-errors=no /etc/systemd/system/* ;;
"reload caddy") caddy validate --adapter caddyfile --config /etc/caddy/Caddyfile ;;
"enable --now bay" | "enable --now bay-backup.timer" | "start bay-backup" | "reload nginx") ;;
*) exit 1 ;;
esac
END
chmod 755 "$PROGRAMS"/*
"""
"""The files of deploy/, with a certificate and paths of the test. Each is looked at by the program that it is
for when the page has it loaded.
"""

TYPED = "tests/project/test_tutorial.py::test_the_tutorial_leads_from_a_clone_to_an_agents_answer"
TYPESCRIPT = "tests/clients/test_typescript_docs.py::test_an_example_compiles_and_runs"
FRAMEWORKS = "tests/integrations/test_frameworks.py"
PROGRAM = f"{FRAMEWORKS}::test_the_program_of_a_page_gets_its_answer"
IMAGES = "tests/cli/test_cli_images_real.py"
REMOTE = "tests/cli/test_cli_remote_checkpoints.py"

WITH_MAKE = r"""
bay create web --wait 60
printf 'all:\n\t@echo made\n\ntest:\n\t@echo tested\n' >Makefile
bay cp Makefile web:Makefile
"""
APPS = r"""
mkdir -p programs
cat >programs/postgres <<'END'
#!/bin/sh
exec python3 -m http.server 5432
END
cat >programs/npm <<'END'
#!/bin/sh
echo listening
echo ok >ready
exec python3 -m http.server 8000
END
chmod 755 programs/*
"""
"""Programs of the names that the pages use for a database and for an app."""
DATABASE = f"""
{APPS}
bay cp programs/postgres web:.local/bin/postgres
bay cp programs/npm web:.local/bin/npm
"""
"""Programs of the names that the pages use for a database and for an app."""
SSH_SERVER = r"""
mkdir -p -m 700 ~/.ssh
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
ssh-keygen -q -t ed25519 -N '' -f host
dropbearconvert openssh dropbear host dropbear
bay exec web -- mkdir -p -m 700 .ssh
bay cp ~/.ssh/id_ed25519.pub web:.ssh/authorized_keys
bay cp dropbear web:.ssh/dropbear
bay exec web -- chmod 600 .ssh/authorized_keys .ssh/dropbear
bay services put web ssh --http-port 22 -- dropbear -F -E -s -p 127.0.0.1:22 -r /workspace/.ssh/dropbear
cat >"$PROGRAMS/ssh" <<'END'
#!/bin/sh
exec /usr/bin/ssh -F ~/.ssh/config -i ~/.ssh/id_ed25519 -o UserKnownHostsFile="$HOME/.ssh/known_hosts" "$@"
END
chmod 755 "$PROGRAMS/ssh"
until bay ports web | grep dropbear; do sleep 0.1; done
"""
"""An SSH server in a sandbox that knows the reader's key. The client looks for the HOME of its account, so a
program tells it where the reader's is.
"""

POSTGRES = "#!/bin/sh\nexec sleep 1000\n"
NPM = "#!/bin/sh\necho listening\necho ok >ready\nexec python3 -m http.server 8000\n"
PROJECT = (
    APPS
    + r"""
mkdir -p src out notes project/notes project/src project/out project/.local/bin
echo one >src/one.txt
echo '# Notes' >project/notes/day.md
echo text >project/notes/today.txt
echo 'debug=True  # TODO' >project/main.py
echo true >project/run.sh
echo one >project/src/one.txt
printf 'all:\n\t@echo made\n\ntest:\n\t@echo tested\n' >project/Makefile
printf '#!/bin/sh\ntrap : HUP\nwhile :; do read line && echo ready; done\n' >project/server
cp programs/* project/.local/bin/
printf '#!/bin/sh\ntouch page.png\n' >project/.local/bin/agent-browser
chmod 755 project/server project/.local/bin/*
head -c 100000 /dev/urandom >big.bin
head -c 100000 /dev/urandom >model.bin
bay create dev --profile browser --wait 60
tar c -C project . | bay exec -i dev -- tar x
"""
)
"""The files of a project, here and in the sandbox `dev`."""
CLIENT = "import bay\nclient = bay.Client()\n"


def calls(text: str) -> str:
    """A program that calls the function of a block."""
    return f"with bay.Client() as client:\n    box = client.sandboxes.get('dev')\n    {text}\n"


WATCHED = """
import threading

client = bay.Client()
box = client.sandboxes.create(wait=60)
threading.Thread(target=watch, args=(client, box), daemon=True).start()
while not of_the_box.is_set():
    box.update(labels={"looked": "at"})
box.delete()
assert all_of_them.wait(60)
"""
"""Loops over events end with their sandbox, or never. They print two words, and one."""
WATCHING = """
import bay, threading

of_the_box, all_of_them = threading.Event(), threading.Event()


def print(*words):
    (None, all_of_them, of_the_box, threading.Event())[len(words)].set()


"""

WORLDS: Mapping[str, World] = {
    "README.md": World(
        bay=False,
        words={"/var/lib/bay": "PLACE/data"},
        last=".venv/bin/bay rm --all",
        rows=(
            Run(
                "git clone",
                # tests/project/test_demo.py runs the program of it, which takes half a minute.
                words={"sudo make demo": "sudo make -n demo"},
                above={"sudo make demo": HAS_CLONED},
                says=("python -m examples.demo",),
            ),
            Run("sudo .venv/bin/bay run", says=("42\n",)),
            Serve("sudo make serve"),
            Run(
                "sudo .venv/bin/bay create",
                typed={"sudo .venv/bin/bay shell web": ((r"[$#] ", "exit\n"),)},
            ),
            Run("export BAY_URL", says=("web",)),
            Run("import bay", says=("12\n 0", "stdout b'1\\n'")),
        ),
    ),
    "clients/typescript/README.md": World(languages={"ts": RunBy("", TYPESCRIPT)}),
    "docs/object-storage.md": World(
        bay=False,
        rows=(
            NotRun("uv pip install", REGISTRY),
            RunBy("bay checkpoint push", f"{REMOTE}::test_a_checkpoint_is_pushed_listed_pulled_and_removed"),
            RunBy("def move", f"{REMOTE}::test_the_sdk_moves_a_checkpoint_as_the_page_says"),
            NotRun("PREFIX/bay.json", "it is a list of keys"),
        ),
    ),
    "docs/typescript.md": World(
        languages={"ts": RunBy("", TYPESCRIPT)},
        rows=(NotRun("npm install", "npm asks its registry also for a package of this machine"),),
    ),
    "docs/agents.md": World(
        rows=(Run("from collections.abc", says=("The primes: [2, 3, 5, 7, 11, 13, 17, 19]",)),)
    ),
    "docs/backup.md": World(
        bay=False,
        first="mkdir -p backups",
        words={"/srv/backups": "PLACE/here/backups", "/var/backups": "PLACE/here/backups"},
        rows=(
            Run(
                "bay admin backup /srv/backups/bay-$(date",
                before=f"""
export BAY_DRIVER=fake
{SERVE}
bay create web --wait 60
bay exec web -- sh -c 'echo kept >kept.txt'""",
                above={"bay admin restore": "kill $server; wait $server\nexport BAY_DATA_DIR=PLACE/restored"},
                after="cat PLACE/restored/cargo/*/workspace/kept.txt",
                words={"bay-2026-11-24": "bay-*"},
                says=("kept\n",),
            ),
            Run("install -d", after="ls PLACE/here/backups/bay/bay-*Z.tar.gz"),
        ),
    ),
    "docs/browser.md": World(
        first="""
bay create web --profile browser --wait 60
bay cp /path/to/the/clone/tests/agent_browser/node_modules/agent-browser/bin/agent-browser-linux-musl-$(
  uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/') web:.local/bin/agent-browser
bay exec web -- chmod 755 .local/bin/agent-browser
echo '<!doctype html><title>A page</title><a href="#a">one</a><button>two</button>' >index.html
bay cp index.html web:index.html
bay services put web pages --http-port 8000 -- python3 -m http.server 8000
bay exec web -- sh -c 'until curl -s localhost:8000 >/dev/null; do sleep 0.1; done'
""",
        words={"https://example.com": "http://127.0.0.1:8000/"},
        rows=(
            Run('$ at="$BAY_URL', says=('"success":true', '"success":true')),
            NotRun("# apt install", REGISTRY),
        ),
    ),
    "docs/builds.md": World(
        images=("debian:13",),
        first="""
mkdir app
printf '#!/bin/sh\nexec sleep 1000\n' >app/serve
chmod 755 app/serve
printf 'FROM debian:13\nARG VERSION=1\nRUN echo $VERSION >/version\n' >Dockerfile
""",
        rows=(
            Run("$ bay build", says=("tmpl-",)),
            Run("template = client", before=CLIENT, after="print(template.state)", says=("ready\n",)),
            Run(
                "steps = [",
                before=CLIENT,
                without={'    {"run": "apt-get': REGISTRY},
                after="print(template.state)",
                says=("ready\n",),
            ),
            Run(
                '$ curl -H "Authorization',
                above={
                    "tar c app": "template=$(bay template ls --json | tail -n 1 | python3 -c "
                    "'import json, sys; print(json.loads(sys.stdin.readline())[\"id\"])')"
                },
                after='curl -H "Authorization: Bearer $BAY_API_KEY" "$BAY_URL/v1/templates/$template?wait=60"',
                words={"tmpl-…": "$template"},
                says=('"ready"',),
            ),
        ),
    ),
    "docs/ci-jobs.md": World(
        rows=(
            Run("mkdir -p project", says=("passed\n",)),
            Run("box=$(bay create", says=("built\n",)),
            Run("bay keys create", says=("bay_", "ci")),
        ),
    ),
    "docs/cli.md": World(
        first="mkdir -p src/out; echo one >src/one.txt",
        last="rm -rf ~/.config/bay",
        rows=(
            Run(
                "bay run",
                typed={
                    "bay shell web": ((r"[$#] ", "exit\n"),),
                    "bay proxy 8080:80": ((":8080", INTERRUPT),),
                },
                above={"bay proxy": "bay rm try"},
                says=("42\n", "Linux"),
            ),
            Run(
                "bay use web",
                first=WITH_MAKE,
                typed={"bay shell ": ((r"[$#] ", "exit\n"),)},
                says=("tested\n",),
            ),
            Run(
                "bay exec web make test",
                typed={"bay exec -it web python3": ((">>> ", "exit()\n"),)},
                says=("tested\n", "made\n"),
            ),
            Run(
                "bay cp ./src",
                first="bay exec -u root web sh -c 'echo logged >/var/log/app.log'\nrm -rf out",
                above={"bay cp web:/var/log": "ln -s /bin/cat $PROGRAMS/less; ls out"},
                says=("logged\n",),
            ),
            Shown(
                "NOW",
                first="""
bay checkpoint create web --name first --comment 'all tests pass'
bay checkpoint create web --name second
bay checkpoint policy web --before-stop
bay stop web
until bay checkpoint ls web | grep yes; do sleep 0.1; done
bay checkpoint restore web second
bay checkpoint policy web --off
bay checkpoint ls web
""",
                words={
                    "ckpt-51f1c5c6e6f4f6b1a2b3c4d5": "ckpt-…",
                    "ckpt-0a1b2c3d4e5f60718293a4b5": "ckpt-…",
                    "ckpt-9f8e7d6c5b4a39281706f5e4": "ckpt-…",
                    "2h   1.2M  4.0K": "…",
                    "1h   1.3M  16K": "…",
                    "30m  1.3M  8.0K": "…",
                },
            ),
            Run(
                "bay services put",
                first=DATABASE,
                typed={"bay services logs -f": (("listening", INTERRUPT),)},
                says=("listening",),
            ),
            Run("bay net mode", says=("allowlist", "tracker.files.example.com")),
            Run(
                "bay proxy 8080:80",
                typed={"bay proxy 8080": ((":5432", INTERRUPT),), "bay proxy 0:80": ((r":\d+", INTERRUPT),)},
            ),
            Run(
                "bay ssh-config web",
                first=SSH_SERVER,
                typed={"ssh bay-web": ((r"[$#] ", "exit\n"),)},
            ),
            Run(
                "bay context add",
                first=r"""
mkdir -p ~/.config/bay
(umask 077; echo "$BAY_API_KEY" >~/.config/bay/build.key)
printf '#!/bin/sh\necho "%s"\n' "$BAY_API_KEY" >"$PROGRAMS/pass"
chmod 755 "$PROGRAMS/pass"
""",
                above={"bay --context": "unset BAY_URL BAY_API_KEY"},
                after="bay ls\nexport BAY_URL=http://127.0.0.1:8700 BAY_API_KEY=bay_…",
                words={
                    "https://bay.example.com": "http://127.0.0.1:8700",
                    "https://lab.example.com": "http://127.0.0.1:8700",
                },
                says=("web", "web"),
            ),
            ReadBy("current =", "contexts"),
            Run(
                "bay init",
                before="export BAY_DRIVER=fake BAY_PORT=0 BAY_DATA_DIR=PLACE/data BAY_RUN_DIR=PLACE/run",
                typed={"bay serve": (("The API is at", INTERRUPT),)},
            ),
        ),
    ),
    "docs/data-analysis.md": World(
        rows=(
            Run("import bay", says=("Oslo", "1 figure of", "AttributeError")),
            Run("printf", says=("12.35",)),
        ),
    ),
    "docs/deployment.md": World(
        first=DEPLOYED,
        words={"/etc/": "PLACE/here/etc/", "/var/backups": "PLACE/here/backups"},
        rows=(
            NotRun("journalctl", "no systemd runs where the tests run, so nothing has a journal"),
            NotRun("docker build", "the tests have no Docker"),
        ),
    ),
    "docs/errors.md": World(rows=(ReadBy("{", "error"),)),
    "docs/events.md": World(
        rows=(
            ReadBy('{"id": "2536', "event"),
            Run(
                "curl -N",
                typed={
                    "curl -N": (("id: ", "!bay create new"), ("event: sandbox.created\r?\ndata: ", INTERRUPT))
                },
            ),
            Shown(
                "id: b785",
                words={"b78599860aca4b1124702ff9dae125ab": "…", "2536b48e3f671a7c2324fd196b1df0e9": "…"},
                without={": ping": "Bay sends it when nothing else was sent for 15 s"},
            ),
            ReadBy('{"id": "…"', "event"),
            Run(
                "def on_request",
                before="import bay",
                after="""
import base64, hashlib, hmac, time
body = b'{"id": "1", "type": "sandbox.failed", "sandbox_id": "s", "at": "2030-01-01T12:00:00Z", "data": {}}'
moment = str(int(time.time()))
digest = hmac.new(b"a secret", f"1.{moment}.".encode() + body, hashlib.sha256).digest()
signature = f"v1,{base64.b64encode(digest).decode()}"
headers = {"webhook-id": "1", "webhook-timestamp": moment, "webhook-signature": signature}
on_request(f"whsec_{base64.b64encode(b'a secret').decode()}", headers, body)""",
                says=("sandbox.failed s\n",),
            ),
        ),
    ),
    "docs/frameworks.md": World(
        images=("debian:13",),
        python=".venv-frameworks/bin/python",
        rows=(
            Run(
                "import bay\nfrom bay.integrations.deepagents",
                before="""
from langchain.chat_models import init_chat_model

model = init_chat_model("anthropic:claude-sonnet-4-5", disable_streaming=True)
""",
                after="""
    answer = agent.invoke({"messages": [{"role": "user", "content": "Say it."}]})
    print(answer["messages"][-1].text)
""",
                words={"model=...": "model=model"},
                says=("It printed:", "42"),
            ),
            Run(
                "from agents.sandbox",
                before="from agents import Runner\nfrom agents.run import RunConfig",
                after="print(result.final_output)",
                says=("It printed:", "42"),
            ),
            Run(
                "from bay.integrations.inspect_ai",
                before="""
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.solver import solver
from inspect_ai.util import sandbox


@solver
def look():
    async def solve(state, generate):
        print((await sandbox().exec(["cat", "/etc/os-release"])).stdout)
        return state

    return solve


""",
                after="""
[log] = eval(task, model="mockllm/model", display="none", log_dir="logs")
print(log.status, log.error and log.error.message)
""",
                words={"Task(...": 'task = Task([Sample("Say it.")], solver=look()'},
                says=('PRETTY_NAME="Small"', "success None"),
            ),
            Run(
                "from bay.integrations.swe_rex",
                before="""
import sys, bay

with bay.Client() as client:  # packages for the sandbox's Python, in place of those of a registry
    cargo = client.cargos.create()
    with client.sandbox(cargo_id=cargo.id) as box:
        box.files.upload_dir(f"{sys.prefix}/in-sandboxes", "site")
""",
                after="""
print((await deployment.is_alive(timeout=30)).is_alive)
await deployment.stop()
""",
                words={
                    '{"profile": "python-default"}': '{"profile": "python-default", "cargo_id": cargo.id}',
                    '"pip install swe-rex"': '"test -d site/swerex", command="env PYTHONPATH=/workspace/site python3 -m swerex.server"',
                },
                says=("True\n",),
            ),
        ),
    ),
    "docs/images.md": World(
        rows=(
            RunBy("$ bay run --image", f"{IMAGES}::test_the_commands_of_the_page_do_what_it_says"),
            RunBy("FROM $IMAGE", f"{IMAGES}::test_an_image_becomes_a_template_with_a_pool_as_the_page_says"),
            RunBy(
                "$ bay build app", f"{IMAGES}::test_an_image_becomes_a_template_with_a_pool_as_the_page_says"
            ),
            Run(
                "bay image export",
                first="bay image pull registry.example.com/shop:3\nbay image export registry.example.com/shop:3 - | bay image import - app:1",
                words={"bay image push app:1": "bay image push --insecure app:1"},
            ),
        ),
    ),
    "docs/isolation.md": World(
        rows=(
            RunBy(
                "$ uv pip install",
                "tests/cli/test_cli_doctor_runtime.py::test_another_runtime_that_keeps_all_promises_passes_both_suites",
            ),
        ),
    ),
    "docs/traces.md": World(
        rows=(
            Run(
                "uv pip install",
                without={"uv pip install": REGISTRY},
                words={" bay serve": " bay serve --port 0"},
                typed={"BAY_OTLP_ENDPOINT": (("Bay serves at", INTERRUPT),)},
            ),
            Run("bay create", says=("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",)),
        ),
    ),
    "docs/metrics.md": World(rows=(ReadBy("scrape_configs", "prometheus"),)),
    "docs/install.md": World(
        bay=False,
        first="mkdir etc",
        words={
            "/etc/bay.toml": "PLACE/here/etc/bay.toml",
            "/srv/bay": "PLACE/other",
            "/var/lib/bay": "PLACE/data",
        },
        rows=(
            Run("git clone", above={"sudo make setup": HAS_CLONED}),
            Run("UV_TOOL_DIR", without={"UV_TOOL_DIR": REGISTRY, "pipx": REGISTRY}),
            NotRun("uv pip install", REGISTRY),
            Serve("sudo make serve", first="bay init /etc/bay.toml"),
            Shown(
                "Bay serves at",
                # The files are not where they are by default.
                words={
                    "needs no export: try `.venv/bin/bay": "needs only BAY_DATA_DIR=PLACE/data: try `…bay"
                },
            ),
        ),
    ),
    "docs/kernels.md": World(
        rows=(
            Run(
                "import bay",
                says=("[1, 2, 3]\n", "3\n1\n2\n", "error ZeroDivisionError\n", "timeout 3\n", "'me'\n"),
            ),
        ),
    ),
    "docs/keys.md": World(
        rows=(
            Run(
                "KEY=$(bay keys",
                words={
                    "key-3f…": "$(bay keys ls --json | tail -n 1 | python3 -c "
                    "'import json, sys; print(json.loads(sys.stdin.readline())[\"id\"])')"
                },
                says=("ci",),
            ),
            Run(
                "bay admin audit",
                first="bay create seen",
                words={"sandbox-3f…": "$(bay ls -q)"},
                says=("/v1/sandboxes",),
            ),
        ),
    ),
    "docs/langchain.md": World(
        rows=(
            Run("pip install", without={"pip install": REGISTRY}),
            RunBy("import sys", PROGRAM),
        ),
    ),
    "docs/openai-agents.md": World(
        rows=(
            Run("pip install", without={"pip install": REGISTRY}),
            RunBy("import asyncio", PROGRAM),
        ),
    ),
    "docs/memory.md": World(
        rows=(
            NotRun("bay hibernate", "tests/drivers/test_hibernating_bay.py does it, on a Bay that has CRIU"),
            NotRun(
                "bay admin prepare-restart",
                "tests/drivers/test_host_restart.py does it, on a Bay that has CRIU",
            ),
            NotRun("bay checkpoint", "tests/drivers/test_live_forks.py does it, on a Bay that has CRIU"),
            NotRun("bay fork", "tests/drivers/test_live_forks.py does it, on a Bay that has CRIU"),
            NotRun("import bay", "tests/drivers/test_live_forks.py runs it, on a Bay that has CRIU"),
        ),
    ),
    "docs/mcp.md": World(
        rows=(
            ReadBy('{\n  "mcpServers": {\n    "bay": {\n      "command"', "mcp"),
            ReadBy('{\n  "mcpServers": {\n    "bay": {\n      "url"', "mcp"),
            Run("import asyncio", says=("2023", "image/png")),
        ),
    ),
    "docs/network.md": World(
        rows=(
            ReadBy('{"mode": "allowlist", "rules": [\n  {"action": "allow", "domain": "*.', "policy"),
            ReadBy('{"mode": "allowlist", "rules": [\n  {"action": "allow", "domain": "api.', "policy"),
        ),
    ),
    "docs/packages.md": World(
        first="bay create web --wait 60",
        rows=(
            Run("bay exec web pip install", without={"bay exec web pip install": REGISTRY}),
            Run(
                "bay exec web python3 -m venv",
                without={
                    "bay exec web .venv/bin/pip": REGISTRY,
                    "bay exec web .venv/bin/python -c": "nothing is installed there without a registry",
                },
            ),
        ),
    ),
    "docs/ports.md": World(
        first="bay create web --wait 60",
        rows=(
            Run(
                "bay exec web -- python3",
                words={"bay exec web -- python3": "bay exec --detach web -- python3"},
                above={"bay ports web  ": "until bay ports web | grep 8000; do sleep 0.1; done"},
                says=("8000",),
            ),
        ),
    ),
    "CONTRIBUTING.md": World(
        rows=(
            NotRun(
                "scripts/kubernetes/up",
                "it needs the tree, and `make test-kubernetes` runs the same programs",
            ),
        ),
    ),
    "docs/kubernetes.md": World(
        bay=False,
        rows=(
            NotRun("make release", REGISTRY),
            RunBy("image:\n", IN_A_CLUSTER),
            RunBy("kubectl create namespace", IN_A_CLUSTER),
            NotRun("pip install", REGISTRY),
            Run(
                "bay admin ship-image",
                words={"docker://registry.example.com/bay-ship:0.1.0": "oci-archive:pushed.tar"},
            ),
            RunBy(
                "bay create shop --image",
                "tests/kubernetes/test_images_in_a_cluster.py::"
                "test_a_sandbox_keeps_the_image_that_its_name_was_when_it_began",
            ),
            RunBy(
                "bay doctor --kubernetes",
                "tests/kubernetes/test_doctor_on_kubernetes.py::test_it_says_the_truth_about_this_cluster",
            ),
            RunBy(
                "apiVersion: rbac",
                "tests/kubernetes/test_driver_faults.py::test_the_rights_of_the_page_are_enough",
            ),
            RunBy(
                "- apiGroups: [snapshot",
                "tests/deploy/test_chart.py::"
                "test_it_may_take_snapshots_where_a_class_of_them_is_named_and_nowhere_else",
            ),
        ),
    ),
    "docs/postgresql.md": World(
        bay=False,
        databases=2,
        first=f"{SYSTEMCTL}\nmkdir backups\nexport BAY_DRIVER=fake",
        words={"/srv/backups": "PLACE/here/backups", "/var/lib/bay": "PLACE/moved"},
        rows=(
            NotRun("uv pip install", REGISTRY),
            NotRun("sudo -u postgres", "it asks a person for a password, and a server of the whole machine"),
            Run(
                "BAY_DATABASE_URL=",
                words={"postgresql://bay:PASSWORD@db.example.com/bay?sslmode=verify-full": "POSTGRES-1"},
                typed={"BAY_DATABASE_URL=": (("The API is at", INTERRUPT),)},
            ),
            Run(
                "systemctl stop bay\nbay admin backup",
                before=f"export BAY_DATA_DIR=PLACE/moved\n{SERVE}\nbay create web\nkill $server; wait $server",
                words={"postgresql://bay:PASSWORD@db.example.com/bay": "POSTGRES-2"},
                says=("sandboxes",),
            ),
            Run(
                "systemctl stop bay\npg_dump",
                after="pg_restore --list backups/bay.dump | grep 'TABLE DATA public sandboxes'",
            ),
        ),
    ),
    "docs/quickstart.md": World(
        languages={"sh": RunBy("", TYPED)},
        rows=(
            RunBy("import bay\n\nwith bay.Client() as client, client.sandbox()", TYPED),
            RunBy("import json", TYPED),
            Run("import bay\n\nwith bay.Client() as client:\n", says=("42\n", "False\n")),
        ),
    ),
    "docs/replicas.md": World(
        bay=False,
        databases=1,
        words={"/srv/bay": "PLACE/shared"},
        rows=(
            Run(
                "export BAY_DATABASE_URL=",
                words={"postgresql://bay:PASSWORD@db.example.com/bay": "POSTGRES-1"},
                after=f"{REPLICAS_READY}\nkill %1 %2\nwait",
            ),
            Run(
                "export BAY_API_KEY=",
                before="export BAY_DATABASE_URL=POSTGRES-1 BAY_REPLICAS=true BAY_DRIVER=fake "
                "BAY_DATA_DIR=PLACE/shared\nbay serve --port 8701 & bay serve --port 8702 &\n"
                f"{REPLICAS_READY}",
                after="bay --url http://127.0.0.1:8702 rm web\nkill %1 %2\nwait",
                says=("http://127.0.0.1:8701", "hello"),
            ),
            NotRun("backend bay", "HAProxy is no requirement of the tests"),
            RunBy(
                "… leave no older replica",
                "tests/replicas/test_upgrading.py::"
                "test_a_version_that_older_replicas_cannot_run_beside_says_which_to_stop",
            ),
        ),
    ),
    "docs/sdk.md": World(
        images=("debian:13",),
        first=PROJECT,
        rows=(
            Run("import bay", says=("hello from", "[2, 3, 5, 7", "stdout b'1", "0\n")),
            Run("def tour", before="import bay", after=calls("tour(client)")),
            Run("def come_back", before="import bay", after=calls("come_back(client)")),
            Run("def later", before="import bay", after=calls("later(box)"), says=("made", "0\n")),
            Run(
                "def talk",
                before="import bay",
                after=calls("talk(box)"),
                words={
                    "4711": "box.spawn('sleep 1000') and "
                    "next(one.pid for one in box.processes() if 'sleep' in one.command)"
                },
                says=("a\nb\n",),
            ),
            Run("def look_back", before="import bay", after=calls("look_back(box)"), says=("flaky\n",)),
            Run(
                "def files", before="import bay", after=calls("files(box)"), says=("1\n", "13 text is UTF-8")
            ),
            Run("def large_files", before="import bay", after=calls("large_files(box)")),
            Run(
                "def look_around",
                first="tar c -C project . | bay exec -i dev -- tar x",
                before="import bay",
                after=calls(
                    "writer = box.spawn('while sleep 0.1; do date >src/now; done', timeout_s=60)\n"
                    "    look_around(box)\n"
                    "    writer.kill()"  # the next block removes `src`
                ),
                says=("file 5 ", "False\n"),
            ),
            Run("def back_and_forth", before="import bay", after=calls("back_and_forth(client, box)")),
            Run("def cargos", before="import bay", after=calls("cargos(client)")),
            Run("def images", before="import bay", after=calls("images(client)"), says=("PRETTY_NAME",)),
            Run(
                "def templates",
                first="bay create base --profile build --image debian:13 --wait 60",
                before="import bay",
                after=calls("templates(client, client.sandboxes.get('base'))"),
            ),
            Run(
                "def reach",
                first="echo key | bay secret set API_KEY",
                before="import bay",
                after=calls("reach(box)"),
            ),
            Run(
                "def look_in",
                before="import bay",
                after=calls("look_in(box)"),
                says=("404", "HTTP/1.0 200 OK"),
            ),
            Run("def look(", before="import bay", after=calls("look(box)"), says=("True\n3 ",)),
            Run(
                "def learn",
                before="import bay",
                after=calls("learn(client, box.shell('echo works').execution_id)"),
                says=("make report",),
            ),
            Run(
                "def serve",
                before="import bay",
                after=calls("box.spawn('pkill -f http.server').wait(); serve(box)"),
                says=("db running", "web running True"),
            ),
            Run("def watch", before=WATCHING, after=WATCHED),
            Run(
                "def hooks",
                before="import bay",
                after=calls("hooks(client)"),
                words={"https://example.org": "https://93.184.216.34"},
                says=("whsec_", "93.184.216.34/hook"),
            ),
            Run("def secrets", before="import bay", after=calls("secrets(client)")),
            Run("def keys", before="import bay", after=calls("keys(client)"), says=("bay_",)),
            Run(
                "async def hello",
                before="import asyncio, bay",
                after="asyncio.run(hello())",
                says=("hello\n", "dev\n"),
            ),
        ),
    ),
    "docs/secrets.md": World(
        first="echo value >key.txt",
        rows=(
            Run(
                "bay secret set",
                without={"bay exec web sh -c 'curl": LOOPBACK},
                says=("API_KEY",),
                above={"bay create web": "echo key | bay secret set DEPLOY"},
            ),
            Run("import bay", after="deploy(bay.Client())"),
        ),
    ),
    "docs/services.md": World(
        first=APPS,
        rows=(
            Run(
                "def serve",
                before="import bay",
                after="""
client = bay.Client()
serve(client)
box = client.sandboxes.get("shop")
for name in ("postgres", "npm"):
    box.files.upload(f"programs/{name}", f".local/bin/{name}")
    box.files.chmod(f".local/bin/{name}", 0o755)
box.services.restart("db")
box.services.wait_ready("web", timeout_s=60)
""",
            ),
        ),
    ),
    "docs/skills.md": World(rows=(Run("import bay", says=("[(1, 'stable')]",)),)),
    "docs/sprites.md": World(
        python=".venv-compat/bin/python",
        first="ln -s /path/to/the/clone/tests/compat/node/node_modules node_modules",
        rows=(
            Run(
                "client = SpritesClient",
                before="import os\nfrom sprites import SpritesClient",
                after="print(client.list_sprites())",
            ),
            Run(
                "const client",
                before='import { SpritesClient } from "@fly/sprites";',
                after="console.log(await client.listSprites());",
            ),
            Run(
                "curl -d",
                first="bay create build --profile sprite --wait 60",
                inside="build",
                says=("build",),
            ),
        ),
    ),
    "docs/templates.md": World(
        images=("debian:13",),
        first="""
bay create dev --profile build --image debian:13 --wait 60
printf '#!/bin/sh\nexec sleep 1000\n' >serve
chmod 755 serve
bay cp serve dev:serve
""",
        rows=(Run("$ bay template create", says=("tmpl-", "ready")),),
    ),
    "docs/upgrade.md": World(
        bay=False,
        first=f"""
mkdir -p backups
git clone -q /path/to/the/clone upstream
git -C upstream checkout -q -B main
git clone -q upstream opt
cd opt
{HAS_CLONED}
{SYSTEMCTL}
export BAY_DRIVER=fake
""",
        words={"/srv/backups": "PLACE/here/backups", "/opt/bay": "PLACE/here/opt"},
        rows=(
            Run(
                "bay admin backup",
                before=SERVE,
                above={"systemctl restart": "kill $server; wait $server"},
            ),
            NotRun(
                "bay admin prepare-restart",
                "tests/drivers/test_host_restart.py does it, on a Bay that has CRIU",
            ),
            Run("systemctl stop", words={"OLDER": "HEAD"}),
        ),
    ),
    "docs/web-previews.md": World(
        rows=(Run("import bay", says=("<h1>hello from inside</h1>", "http://8000-")),)
    ),
    "tests/store/releases/README.md": World(
        bay=False,
        rows=(
            Run(
                "bay create --name web",
                before=f"export BAY_DRIVER=fake\n{SERVE}",
                after="kill $server; wait $server",
                says=("said\n", "42\n"),
            ),
        ),
    ),
}
