"""The tools, a module for each noun. None of them holds state: a call says all that it needs."""

from bay.mcp.tools import commands, files, network, python, sandboxes

TOOLS = {
    tool.name: tool
    for box in (commands.TOOLBOX, python.TOOLBOX, files.TOOLBOX, sandboxes.TOOLBOX, network.TOOLBOX)
    for tool in box.tools
}
"""By name, in the order of the list."""

LISTED = [tool.listed() for tool in TOOLS.values()]
"""As the protocol lists them: made once, since the library also asks for the schema at each call."""

SCHEMAS = {tool.name: tool.input_schema for tool in LISTED}
