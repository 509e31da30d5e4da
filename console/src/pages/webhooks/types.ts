import type { EventType } from "bay-sandbox";

/** Every type of event; the compiler holds this against the API. */
const ALL: Record<EventType, true> = {
  "sandbox.created": true,
  "sandbox.updated": true,
  "sandbox.starting": true,
  "sandbox.ready": true,
  "sandbox.failed": true,
  "sandbox.idle": true,
  "sandbox.rested": true,
  "sandbox.paused": true,
  "sandbox.resumed": true,
  "sandbox.cooled": true,
  "sandbox.hibernated": true,
  "sandbox.not_hibernated": true,
  "sandbox.memory_lost": true,
  "sandbox.exited": true,
  "sandbox.unreachable": true,
  "sandbox.stopped": true,
  "sandbox.checkpointed": true,
  "sandbox.checkpoint_failed": true,
  "sandbox.checkpoint_deleted": true,
  "sandbox.restored": true,
  "sandbox.restore_failed": true,
  "sandbox.deleted": true,
  "network.changed": true,
  "port.opened": true,
  "port.closed": true,
  "service.failed": true,
  "service.unhealthy": true,
  "image.pulling": true,
  "image.progress": true,
  "image.ready": true,
  "image.failed": true,
  "image.deleted": true,
  "template.building": true,
  "template.ready": true,
  "template.failed": true,
  "template.deleted": true,
};

const TYPES = Object.keys(ALL) as EventType[];

function groupOf(type: EventType): string {
  return type.slice(0, type.indexOf("."));
}

/** The types by their first word. */
export const GROUPS: readonly (readonly [string, readonly EventType[]])[] = [
  ...new Set(TYPES.map(groupOf)),
].map((group) => [group, TYPES.filter((type) => groupOf(type) === group)]);

/** With the whole group when some of it lacks, else without any of it. */
export function toggled(chosen: ReadonlySet<EventType>, group: readonly EventType[]): Set<EventType> {
  return group.every((type) => chosen.has(type))
    ? new Set([...chosen].filter((type) => !group.includes(type)))
    : new Set([...chosen, ...group]);
}
