import type { SettingInForce } from "bay-sandbox";

/** The value as one line; empty for none. */
export function lineOf({ value }: Pick<SettingInForce, "value">): string {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value))
    return value.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Those that have every word of the text somewhere, and with `isSet` only those that somebody has set. */
export function wantedSettings(
  all: readonly SettingInForce[],
  text: string,
  isSet: boolean,
): SettingInForce[] {
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  return all.filter((one) => {
    if (isSet && one.origin === "default") return false;
    const has = `${one.name}\n${lineOf(one)}\n${one.description}`.toLowerCase();
    return wanted.every((word) => has.includes(word));
  });
}
