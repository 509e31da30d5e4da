"""Bay's own SDK."""

from acts import Acts, measure

import bay

client = bay.Client()
measure(
    Acts(
        create=lambda: client.sandboxes.create(),
        run=lambda box: box.run(["true"], check=True),
        write=lambda box, data: box.files.write("large", data),
        read=lambda box: box.files.read("large"),
        destroy=lambda box: box.delete(),
    )
)
