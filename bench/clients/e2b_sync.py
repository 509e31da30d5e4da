"""The synchronous client of `e2b`."""

from acts import Acts, serve
from e2b import Sandbox

serve(
    Acts(
        create=lambda: Sandbox.create(timeout=3600),
        run=lambda box: box.commands.run("true"),
        write=lambda box, data: box.files.write("large", data),
        read=lambda box: box.files.read("large", format="bytes"),
        destroy=lambda box: box.kill(),
    )
)
