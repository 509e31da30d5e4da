"""The client `e2b`."""

from acts import Acts, measure
from e2b import Sandbox

measure(
    Acts(
        create=Sandbox.create,
        run=lambda box: box.commands.run("true"),
        write=lambda box, data: box.files.write("large", data),
        read=lambda box: bytes(box.files.read("large", format="bytes")),
        destroy=lambda box: box.kill(),
    )
)
