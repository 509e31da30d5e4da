"""The command group `admin`, for the operator of Bay."""

from bay.cli.commands import admin_backup, admin_cargo, admin_gc, admin_pool, audit
from bay.cli.tree import Tree

admin = Tree(help="Commands for operators.")

admin.command("audit")(audit.audit)
admin.command("backup")(admin_backup.backup)
admin.command("restore")(admin_backup.restore)
admin.command("gc")(admin_gc.gc)
admin.command("pool")(admin_pool.pool)
admin.add_typer(admin_cargo.cargo, name="cargo")
