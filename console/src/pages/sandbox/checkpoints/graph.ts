/** Where checkpoints stand in the timeline: one a row, the newest on top, with a lane for each branch. */

/** What the present files come from is a node too: it has this id. */
export const NOW = "now";

export interface Node {
  id: string;
  parent: string | null;
}

export interface Edge {
  fromRow: number;
  fromLane: number;
  toRow: number;
  toLane: number;
  /** The lane that it runs in between. */
  lane: number;
}

export interface Graph {
  /** The lane of each row. */
  lanes: number[];
  edges: Edge[];
  width: number;
}

/** Lay out nodes, of which each comes before its parent. A parent that is not among them is none. */
export function graphOf(nodes: readonly Node[]): Graph {
  const rows = new Map(nodes.map((node, row) => [node.id, row]));
  // What each lane leads to, from the rows above.
  const waiting: (string | null)[] = [];
  const begun = new Map<string, { row: number; lane: number }[]>();
  const lanes: number[] = [];
  const edges: Edge[] = [];
  nodes.forEach((node, row) => {
    const wanted = waiting.indexOf(node.id);
    const free = waiting.indexOf(null);
    const lane = wanted >= 0 ? wanted : free >= 0 ? free : waiting.length;
    lanes.push(lane);
    for (const child of begun.get(node.id) ?? []) {
      edges.push({ fromRow: child.row, fromLane: child.lane, toRow: row, toLane: lane, lane: child.lane });
    }
    waiting.forEach((id, at) => {
      if (id === node.id) waiting[at] = null;
    });
    const below = node.parent === null ? undefined : rows.get(node.parent);
    const isShown = node.parent !== null && below !== undefined && below > row;
    waiting[lane] = isShown ? node.parent : null;
    if (isShown && node.parent !== null) {
      begun.set(node.parent, [...(begun.get(node.parent) ?? []), { row, lane }]);
    }
  });
  return { lanes, edges, width: Math.max(1, waiting.length) };
}

/** The line of an edge, in pixels. */
export function pathOf(edge: Edge, laneX: (lane: number) => number, rowY: (row: number) => number): string {
  const [x, toX] = [laneX(edge.lane), laneX(edge.toLane)];
  const [y, toY] = [rowY(edge.fromRow), rowY(edge.toRow)];
  if (x === toX) return `M${x} ${y}V${toY}`;
  const bend = rowY(edge.toRow - 1) + (toY - rowY(edge.toRow - 1)) * 0.35;
  const start = Math.max(y, bend);
  return `M${x} ${y}V${start}C${x} ${toY} ${toX} ${start} ${toX} ${toY}`;
}
