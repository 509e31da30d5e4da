/**
 * The console's texts, in English and Chinese. Each part of the console has a file `words.ts` of its own, and the
 * compiler holds the Chinese against the English: a text that is missing in one of them is an error.
 */

import i18next from "i18next";
import { initReactI18next, useTranslation } from "react-i18next";
import { readSetting, writeSetting } from "./settings";

export const LANGUAGES = { en: "English", zh: "中文" } as const;
export type Language = keyof typeof LANGUAGES;

const NAME = "language";

function preferred(): Language {
  const kept = readSetting(NAME);
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

void i18next.use(initReactI18next).init({
  lng: preferred(),
  fallbackLng: "en",
  resources: {},
  interpolation: { escapeValue: false }, // React escapes
  initAsync: false,
});

function show(): void {
  document.documentElement.lang = i18next.language === "zh" ? "zh-CN" : "en";
}
show();

export function setLanguage(language: Language): void {
  writeSetting(NAME, language);
  void i18next.changeLanguage(language).then(show);
}

export function language(): Language {
  return i18next.language === "zh" ? "zh" : "en";
}

export type Texts = Record<string, string>;
type Values = Record<string, string | number>;
/** A text by its name, with values for its `{{names}}`; `count` chooses `name_one` or `name_other`. */
export type Say<T extends Texts> = (name: Plain<keyof T & string>, values?: Values) => string;
type Plain<K extends string> = K extends `${infer Base}_one` | `${infer Base}_other` ? Base : K;

/** The texts of one part of the console, used by `useWords`. */
export interface Words<T extends Texts> {
  readonly part: string;
  readonly en: T;
}

export function words<T extends Texts>(part: string, en: T, zh: { [K in keyof T]: string }): Words<T> {
  i18next.addResourceBundle("en", part, en);
  i18next.addResourceBundle("zh", part, zh);
  return { part, en };
}

/** The texts of a part in the language of now. */
export function useWords<T extends Texts>({ part }: Words<T>): Say<T> {
  const { t } = useTranslation(part);
  return t as unknown as Say<T>;
}

/** The same outside of components. */
export function sayer<T extends Texts>({ part }: Words<T>): Say<T> {
  return ((name: string, values?: Values) => i18next.t(name, { ns: part, ...values })) as Say<T>;
}
