"""The skills that Bay brings: what an agent should know before it works in a sandbox."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuiltInSkill:
    """A skill for sandboxes whose profile has the capability `needs`."""

    name: str
    description: str
    needs: str
    body: str

    @property
    def text(self) -> str:
        """The file: front matter in YAML, and the body."""
        return f"---\nname: {self.name}\ndescription: {self.description}\n---\n\n{self.body}"


BUILT_IN = (
    BuiltInSkill(
        name="bay-sandbox",
        description="How to work in this sandbox: files that stay, Python, packages, servers, limits.",
        needs="shell",
        body="""\
# Working in this sandbox

## Files

- Keep work in `/workspace`. Its files stay when the sandbox stops; `/tmp` and running programs do not.
- Paths in calls of the API are relative to `/workspace`.
- Skills of your own go into `/workspace/skills/<name>/SKILL.md`, beside this one. This file is put back at
  each start.

## Commands

- Each shell call is a new shell: `cd` and variables do not carry over. Join steps with `&&`, or write a
  script.
- A call has a time limit. Start what takes long in the background with its output in a file, and look at
  that file later:

      nohup make all > build.log 2>&1 &

## Python

- Code runs in one lasting interpreter: variables stay from call to call until the sandbox stops.
- Install packages into a virtual environment, so that they stay with the workspace:

      python3 -m venv .venv && .venv/bin/pip install requests

## Servers

- Listen on `0.0.0.0` or `127.0.0.1`; Bay forwards requests to the port.
- `http://localhost:8123/meta` describes the sandbox.
""",
    ),
    BuiltInSkill(
        name="bay-browser",
        description="How to look at pages and act on them with the browser of this sandbox.",
        needs="browser",
        body="""\
# The browser of this sandbox

The program `agent-browser` drives one browser, which stays open between commands. Browser calls take each
command without the name of the program, and no shell runs it: `;`, `|` and `$NAME` are text.

- Open a page, then ask for what is on it; the answer names each element with a reference such as `@e2`:

      open https://example.com
      snapshot -i

- Act on an element by its reference: `click @e2`, `fill @e3 "some text"`. A page that changed has other
  references, so take a snapshot again before the next act.
- `screenshot page.png` writes the image to `/workspace`.
- Put steps that belong together into one batch, which stops at the first that fails.
- Cookies and logins stay with the workspace; open pages end when the sandbox stops.
- `agent-browser --help` lists the commands.
""",
    ),
)


def skills_for(capabilities: frozenset[str]) -> tuple[BuiltInSkill, ...]:
    """The skills of a profile with those capabilities."""
    return tuple(skill for skill in BUILT_IN if skill.needs in capabilities)
