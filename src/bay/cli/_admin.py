"""`admin`: for whoever runs Bay."""

from bay.cli import _admin_backup, _admin_cargo, _admin_gc, _admin_pool, _audit
from bay.cli._tree import Tree

admin = Tree(help="For whoever runs Bay.")

admin.command("audit")(_audit.audit)
admin.command("backup")(_admin_backup.backup)
admin.command("restore")(_admin_backup.restore)
admin.command("gc")(_admin_gc.gc)
admin.command("pool")(_admin_pool.pool)
admin.add_typer(_admin_cargo.cargo, name="cargo")
