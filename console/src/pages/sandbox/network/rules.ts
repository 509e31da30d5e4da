/** The rules of a network policy as a form has them. */

import type { NetworkRule, NetworkState } from "bay-sandbox";

export interface Draft {
  /** Tells the rows of the form apart. */
  id: number;
  action: "allow" | "deny";
  /** A name, a pattern of names or a network. */
  target: string;
  ports: string;
  protocol: "" | "tcp" | "udp" | "icmp";
  /** A header that the form does not change, and must not lose. */
  inject: NetworkRule["inject"];
}

let made = 0;

export function draft(given: Partial<Draft> = {}): Draft {
  made += 1;
  return { action: "allow", target: "", ports: "", protocol: "", inject: null, ...given, id: made };
}

export function draftOf(rule: NetworkRule): Draft {
  return draft({
    action: rule.action,
    target: rule.domain ?? rule.cidr ?? "",
    ports: (rule.ports ?? []).join(", "),
    protocol: rule.protocol ?? "",
    inject: rule.inject ?? null,
  });
}

/** Whether a text is meant as a network and not as a name: an address of IPv4 or IPv6, with a length or without. */
export function isNetwork(text: string): boolean {
  return text.includes(":") || /^[0-9.]+(\/[0-9]+)?$/.test(text);
}

/** The rule that is sent. The server says what is wrong with it, so that there is one truth. */
export function ruleOf({ action, target, ports, protocol, inject }: Draft): NetworkRule {
  const text = target.trim();
  const listed = ports
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((port) => (/^[0-9]+$/.test(port) ? Number(port) : port));
  return {
    action,
    ...(isNetwork(text) ? { cidr: text } : { domain: text }),
    ...(listed.length ? { ports: listed } : {}),
    ...(protocol ? { protocol } : {}),
    ...(inject ? { inject } : {}),
  };
}

export interface Refused {
  name: string;
  /** The types of record that it was asked for, such as "A, AAAA". */
  types: string;
  reason: string;
  count: number;
  last_at: string;
}

/** The refused names, the latest first. A program asks for both kinds of address at once: that is one name here. */
export function refusedNames(refused: NetworkState["refused"]): Refused[] {
  const found = new Map<string, Refused>();
  for (const { name, type, reason, count, last_at } of refused) {
    const key = `${name} ${reason}`;
    const before = found.get(key);
    found.set(key, {
      name,
      reason,
      types: before ? `${before.types}, ${type}` : type,
      count: (before?.count ?? 0) + count,
      last_at: before && before.last_at > last_at ? before.last_at : last_at,
    });
  }
  return [...found.values()].sort((a, b) => b.last_at.localeCompare(a.last_at));
}
