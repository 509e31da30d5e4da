/** The rules of a network policy as a form has them. */

import type { NetworkRule } from "bay-sandbox";

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
