"""Database queries on templates. One that is being made takes its tag when it is ready.

A row has one name and tag, and its aliases have rows of their own. When it loses the former, it gets the
oldest of the latter in its place: so a template without a tag has no name at all.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, or_, select, text, update

from bay.ids import is_id
from bay.models import Failure, from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.dialects import JsonRows
from bay.store.records import Page, TemplateRecord
from bay.store.rows import columns_of, page_of, values_of, without_seq
from bay.store.schema import checkpoints, sandboxes, template_aliases, templates

_T = templates.c
_MANY = 500
_A = template_aliases.c
_ALIASES = (
    select(JsonRows(_A.seq, _A.name + ":" + _A.tag))
    .where(_A.template_id == _T.id)
    .correlate(templates)
    .scalar_subquery()
    .label("aliases")
)
_COLUMNS = (*columns_of(templates), _ALIASES)
_ALIVE = _T.deleted_at.is_(None)
HAS_POOL = and_(
    text("templates.deleted_at IS NULL AND (templates.pool_size > 0 OR templates.pool_max > 0)"),
    _T.tag.is_not(None),
)
"""In the words of the index."""


async def add(db: StoreConnection, record: TemplateRecord) -> None:
    """Insert one template."""
    await db.execute(insert(templates).values({**values_of(templates, record), "error": None}))


async def change(db: StoreConnection, template_id: str, **values: Any) -> None:
    """Set columns of one template."""
    if (error := values.get("error")) is not None:
        values["error"] = to_wire(error)
    await db.execute(update(templates).where(_T.id == template_id).values(**values))


async def get(db: StoreConnection, template_id: str) -> TemplateRecord | None:
    """The template, of any owner, deleted or not."""
    return await _first(db, select(*_COLUMNS).where(_T.id == template_id))


async def find(db: StoreConnection, owner: str, ref: str) -> TemplateRecord | None:
    """The template that an id, a name or `name:tag` means for that owner: their own comes before one that is
    shared, and one that is ready before others.
    """
    query = select(*_COLUMNS).where(_named(ref), _ALIVE, _may_use(owner))
    order = _T.owner != owner, _T.state != "ready", _T.seq.desc()
    return await _first(db, query.order_by(*order).limit(1))


async def find_own(db: StoreConnection, owner: str, template_id: str) -> TemplateRecord | None:
    """The owner's own template with that id, deleted or not."""
    return await _first(db, select(*_COLUMNS).where(_T.id == template_id, _T.owner == owner))


async def among(db: StoreConnection, ids: Sequence[str]) -> dict[str, TemplateRecord]:
    """The templates with those ids, of any owner, deleted or not."""
    found: dict[str, TemplateRecord] = {}
    for first in range(0, len(ids), _MANY):
        query = select(*_COLUMNS).where(_T.id.in_(ids[first : first + _MANY]))
        found |= {record.id: record for record in map(_record, await db.execute(query))}
    return found


async def page(
    db: StoreConnection, owner: str, *, name: str | None, after: int, limit: int
) -> Page[TemplateRecord]:
    """Up to `limit` templates with `seq` > `after` that the owner may use, of one name or of all, oldest
    first.
    """
    query = select(_T.seq, *_COLUMNS).where(_ALIVE, _may_use(owner), _T.seq > after)
    if name is not None:
        query = query.where(or_(_T.name == name, _has_alias(_A.name == name)))
    rows = (await db.execute(query.order_by(_T.seq).limit(limit + 1))).all()
    return page_of(rows, limit, _record)


async def building(db: StoreConnection) -> list[TemplateRecord]:
    """Every template that is wanted and not there yet, oldest first."""
    query = select(*_COLUMNS).where(_ALIVE, _T.state == "building").order_by(_T.seq)
    return [_record(row) for row in await db.execute(query)]


async def pooled(db: StoreConnection) -> list[TemplateRecord]:
    """Every template of which started sandboxes are to wait: an owner's together, oldest first."""
    # In the order of the index: by `seq` alone SQLite reads the whole table, and it is asked each second.
    query = select(*_COLUMNS).where(HAS_POOL, _T.state == "ready").order_by(_T.owner, _T.seq)
    return [_record(row) for row in await db.execute(query)]


async def take_name(db: StoreConnection, template: TemplateRecord, name: str, tag: str | None) -> None:
    """Have no other ready template of the owner be found by that name and tag."""
    await db.execute(
        delete(template_aliases).where(_A.owner == template.owner, _A.name == name, _A.tag == tag)
    )
    same = and_(_T.owner == template.owner, _T.name == name, _T.tag == tag)
    others = select(*_COLUMNS).where(same, _ALIVE, _T.state == "ready", _T.id != template.id)
    for row in (await db.execute(others)).all():
        await drop_name(db, _record(row), name, tag)


async def add_name(db: StoreConnection, template: TemplateRecord, name: str, tag: str) -> None:
    """Have a ready template, which has not got that name and tag, be found by it, and no other."""
    await take_name(db, template, name, tag)
    if template.tag is None:
        await change(db, template.id, name=name, tag=tag)
    else:
        row = {"owner": template.owner, "name": name, "tag": tag, "template_id": template.id}
        await db.execute(insert(template_aliases).values(row))


async def drop_name(db: StoreConnection, template: TemplateRecord, name: str, tag: str | None) -> None:
    """Take one of its names from a template. With the last one it loses its pool."""
    own = select(_A.seq, _A.name, _A.tag).where(_A.template_id == template.id).order_by(_A.seq)
    is_alias = (template.name, template.tag) != (name, tag)
    if is_alias:
        own = own.where(_A.name == name, _A.tag == tag)
    alias = (await db.execute(own.limit(1))).first()
    if alias is not None:
        await db.execute(delete(template_aliases).where(_A.seq == alias.seq))
        if not is_alias:
            await change(db, template.id, name=alias.name, tag=alias.tag)
    elif not is_alias:
        await change(db, template.id, tag=None, pool_size=0, pool_max=None)


async def drop_aliases(db: StoreConnection, template_id: str) -> None:
    """Forget the aliases of a template that is deleted."""
    await db.execute(delete(template_aliases).where(_A.template_id == template_id))


async def drop_failed(db: StoreConnection, template: TemplateRecord, now: datetime) -> None:
    """Delete the failed attempts at a template that is ready now."""
    same = and_(_T.owner == template.owner, _T.name == template.name, _T.tag == template.tag)
    await db.execute(update(templates).where(same, _ALIVE, _T.state == "failed").values(deleted_at=now))


async def superseded(db: StoreConnection) -> list[TemplateRecord]:
    """Templates whose names others have taken, and that no sandbox and no checkpoint needs."""
    used = select(sandboxes.c.image_id).where(
        sandboxes.c.deleted_at.is_(None), sandboxes.c.image_id.is_not(None)
    )
    kept = select(checkpoints.c.image_id).where(
        checkpoints.c.deleted_at.is_(None),
        checkpoints.c.build_key.is_(None),
        checkpoints.c.persist == "machine",
        checkpoints.c.image_id.is_not(None),
    )
    query = select(*_COLUMNS).where(_ALIVE, _T.tag.is_(None), _T.state == "ready")
    query = query.where(_T.image_id.not_in(used), _T.image_id.not_in(kept))
    return [_record(row) for row in await db.execute(query.order_by(_T.seq))]


async def shares(db: StoreConnection, checkpoint_id: str) -> bool:
    """Whether a checkpoint has the files of a template that all owners may use."""
    query = select(_T.id).where(_ALIVE, _T.shared.is_(True), _T.checkpoint_id == checkpoint_id)
    return (await db.execute(query.limit(1))).first() is not None


def split(ref: str) -> tuple[str, str]:
    """The name and the tag of `name` or `name:tag`."""
    name, _, tag = ref.partition(":")
    return name, tag or "latest"


def _named(ref: str) -> ColumnElement[bool]:
    if is_id(ref):
        return _T.id == ref
    name, tag = split(ref)
    return or_(and_(_T.name == name, _T.tag == tag), _has_alias(_A.name == name, _A.tag == tag))


def _has_alias(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a template has such an alias: of its owner, whose names are no other's."""
    return _T.id.in_(select(_A.template_id).where(*which))


def _may_use(owner: str) -> ColumnElement[bool]:
    return or_(_T.owner == owner, _T.shared.is_(True))


def _record(row: Row[Any]) -> TemplateRecord:
    values = without_seq(row)
    for name in ("start_command", "ready_command"):
        values[name] = values[name] and tuple(values[name])
    values["aliases"] = tuple(alias for _, alias in sorted(values["aliases"]))
    error = values.pop("error")
    return TemplateRecord(**values, error=from_wire(Failure, error) if error else None)


async def _first(db: StoreConnection, query: Any) -> TemplateRecord | None:
    row = (await db.execute(query)).first()
    return _record(row) if row else None
